"""Get the files of datasets: python dataset/download.py [NAME ...|all] [--from FOLDER]"""

from kflm2.cli import datasets_get

if __name__ == "__main__":
    datasets_get.from_command_line()
