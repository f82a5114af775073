"""What is left of an adapter's training beside its weights."""

from pathlib import Path

import matplotlib.image

from kflm2.stages.finetune.card import draw_losses


def test_a_loss_that_no_step_has_is_left_out_of_the_plot(tmp_path: Path) -> None:
    """A table of knowledge may have few molecules of the corpus."""
    for name, rows in (("all", "1,2.0,0.5\n2,1.9,0.4\n"), ("some", "1,2.0,\n2,1.9,\n")):
        (tmp_path / f"{name}.csv").write_text(f"step,next token,own\n{rows}")
        draw_losses(tmp_path / f"{name}.csv", tmp_path / f"{name}.png")
    pictures = [matplotlib.image.imread(tmp_path / f"{name}.png") for name in ("all", "some")]
    assert all(picture.std() > 0 for picture in pictures)
    assert pictures[0].shape != pictures[1].shape or (pictures[0] != pictures[1]).any()
