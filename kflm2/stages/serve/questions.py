"""The JSON of requests and replies; FastAPI checks and documents it."""

import csv
import io
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can write half of a surrogate pair, which no answer can repeat
        raise ValueError("a character that is not of Unicode") from None
    return text


Text = Annotated[str, AfterValidator(_whole)]


class _Question(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


Cell = Text | bool | int | float | None


class PredictQuestion(_Question):
    """Molecules to predict: `smiles`, `rows`, or a `text` of a `format`."""

    smiles: list[Text] | None = Field(None, description="SMILES, one for each molecule", examples=[["CCO", "c1ccccc1"]])
    rows: list[dict[Text, Cell]] | None = Field(
        None,
        description="column -> value, one for each molecule, instead of smiles: for a model that reads further columns",
        examples=[[{"smiles": "CCO", "pH": 7.4}]],
    )
    text: Text | None = Field(None, description="the content of a table, instead of smiles")
    format: Literal["smi", "csv", "sdf"] = Field(
        "smi", description="of text: smi (one SMILES a line, a name after a blank), csv (with a header) or sdf"
    )
    smiles_column: Text | None = Field(
        None, description="of a csv: its column of SMILES; null for the one that kflm2 predict would take"
    )
    name_column: Text | None = Field(None, description="of a csv: its column of names; null for none")
    drawings: bool = Field(False, description="whether each row has the paths of a drawing, as SVG")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(source is not None for source in (self.smiles, self.rows, self.text)) != 1:
            raise ValueError("give one of smiles, rows and text")
        # a table of rows with other names each would be as large as their square
        if self.rows and any(row.keys() != self.rows[0].keys() for row in self.rows):
            raise ValueError("all rows must have the same names; give null for what a row has not")
        return self

    def source(self) -> dict[str, Any]:
        """Arguments of a MoleculeReader; none of them is a path."""
        if self.smiles is not None:
            return {"format": "words", "words": tuple(self.smiles)}
        if self.rows is not None:
            return {"format": "csv", "text": _csv(self.rows), **self._columns()}
        return {"format": self.format, "text": self.text, **(self._columns() if self.format == "csv" else {})}

    def _columns(self) -> dict[str, Any]:
        """Names of the columns of a table."""
        columns = {"name_column": self.name_column}
        if self.smiles_column is not None:
            columns["smiles_column"] = self.smiles_column
        return columns


def _csv(rows: list[dict[str, Any]]) -> str:
    """Rows as the text of a table."""
    names = list(rows[0]) if rows else []
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([["" if (cell := row[name]) is None else cell for name in names] for row in rows])
    return file.getvalue()


class ExplainQuestion(_Question):
    """A molecule whose prediction is explained."""

    smiles: Text = Field(description="of the molecule", examples=["CCO"])
    name: Text = Field("", description="shown in the picture", max_length=1000)
    features: dict[Text, Cell] = Field(
        {}, description="column -> value, for a model that reads further columns", examples=[{"pH": 7.4}]
    )
    target: Text | None = Field(None, description="one of the model's targets; null for the first")


class Predictions(BaseModel):
    """Predictions, a row for each row of the request, in its order."""

    columns: list[str] = Field(description="names of the columns, as those of kflm2 predict")
    rows: list[dict[str, Any]] = Field(
        description="column -> value; null where there is none, and inf as a word, since JSON has no such number"
    )
    csv: str = Field(description="the same table, as kflm2 predict --out writes it")


class Explanation(BaseModel):
    """What drives a prediction."""

    target: str
    smiles: str = Field(description="in the form that the model reads")
    title: str
    svg: str = Field(description="the picture that kflm2 explain draws")
    prediction: float
    probability: float | None
    baseline: float
    difference: float
    shares: dict[str, float] = Field(description="view -> what it adds to the prediction")


class Failure(BaseModel):
    """Why there is no answer."""

    error: str = Field(description="one sentence")
