"""`kflm2 knowledge`: xTB's numbers of the molecules of a corpus, as a table that an LLM can learn from."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from kflm2.config.base import to_json
from kflm2.config.knowledge import KnowledgeConfig
from kflm2.data.knowledge import canonical_smiles
from kflm2.errors import DataError
from kflm2.featurize import xtb
from kflm2.files import atomic, sha256_file, write_text
from kflm2.results.provenance import commit, versions
from kflm2.stages.corpus import PreparedCorpus, read_corpus


def run(config: KnowledgeConfig) -> Path:
    """Compute the table and its card. A killed computation goes on where it was: molecules are cached as they come.

    Args:
        config: checked.

    Returns:
        The table's path.

    Raises:
        KFLM2Error: tblite is not installed, the corpus cannot be used, or none of its molecules has values.
    """
    xtb.require()
    prepared = read_corpus(config, held_out=0.0, longest=None)
    # one writing of each molecule
    smiles = list({canonical_smiles(text): text for text in prepared.corpus_filter.training_smiles()}.values())
    start = time.perf_counter()
    values, failures = xtb.compute_xtb(smiles)
    record = _record(config, prepared, failures, time.perf_counter() - start)
    keep = [i for i, failure in enumerate(failures) if not failure]
    if not keep:
        raise DataError(f"{xtb.count_failures(failures)}; no table is written")
    columns = {"smiles": [smiles[i] for i in keep]} | {
        name: pa.array(values[keep, k], mask=np.isnan(values[keep, k])) for k, name in enumerate(xtb.XTB_COLUMNS)
    }
    table = pa.table(columns).replace_schema_metadata({"kflm2": json.dumps(record)})
    config.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(config.out) as temporary:
        parquet.write_table(table, temporary, compression="zstd", compression_level=19)
    write_text(config.out.with_suffix(".md"), _card(config.out.name, record))
    if counts := xtb.count_failures(failures):
        print(counts)
    print(f"{config.out}: {len(keep):,} molecules with {len(xtb.XTB_COLUMNS)} columns")
    return config.out


def _record(config: KnowledgeConfig, prepared: PreparedCorpus, failures: list[str], seconds: float) -> dict[str, Any]:
    stats = prepared.stats
    return {
        "corpus": {"name": prepared.corpus.name, "sha256": sha256_file(prepared.corpus.path)},
        "molecules": {
            "read": stats.read,
            "unreadable": stats.unreadable,
            "left out as tested": stats.excluded,
            "fragments and small pieces": stats.fragments,
            "computed": failures.count(""),
            **{f"no values: {failure}": count for failure, count in Counter(filter(None, failures)).most_common()},
        },
        "tested": list(prepared.corpus_filter.exclude.names),
        "seconds": round(seconds, 1),
        "config": {name: value for name, value in to_json(config).items() if name != "out"},
        "columns": xtb.XTB_COLUMNS,
        "versions": {**versions(), **xtb.versions()},
        "commit": commit(),
    }


def _card(name: str, record: dict[str, Any]) -> str:
    corpus = record["corpus"]
    rows = [
        ("corpus", f"{corpus['name']}, SHA-256 {corpus['sha256']}"),
        *((what, f"{count:,}") for what, count in record["molecules"].items()),
        ("left out as tested were those of", ", ".join(record["tested"]) or "no dataset"),
        ("seconds of the last run", record["seconds"]),
        *((f"`{key}`", value) for key, value in record["config"].items()),
        *((f"version of {key}", value) for key, value in record["versions"].items() if key not in ("columns", "xtb")),
        ("commit", record["commit"]),
    ]
    return "\n".join(
        [
            f"# {name}: GFN2-xTB's numbers of {record['molecules']['computed']:,} molecules",
            "",
            "Made by `kflm2 knowledge`. One row a molecule: `smiles`, and at the geometry of one conformer (ETKDG and a"
            " force field) the columns",
            "",
            "| Column | Unit |",
            "|---|---|",
            *(f"| {column} | {unit} |" for column, unit in record["columns"].items()),
            "",
            "`xtb_dG_*` are solvation free energies by ALPB, at the geometry in the gas phase. A value is empty where"
            " the molecule has none, such as the charge of a hydrogen.",
            "",
            "| | |",
            "|---|---|",
            *(f"| {what} | {value} |" for what, value in rows),
            "",
        ]
    )
