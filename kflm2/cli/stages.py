"""The table of stages: what `kflm2` and the thin scripts can run. Nothing heavy is imported here."""

from kflm2.cli.command import Stage

_PAPER, _CHOOSE, _USE, _ABOUT = (
    "the three stages of the paper",
    "choose and compare",
    "use a model and see results",
    "datasets and LLMs",
)

_ROWS = (
    Stage(
        "finetune",
        _PAPER,
        "[options]",
        "stage 1: fine-tune an LLM on SMILES by LoRA",
        "Fine-tune an LLM on a corpus of SMILES by LoRA: the next token, and RDKit's descriptors.\n\nWrites"
        " OUT/<LLM>/<corpus>/ with an adapter that peft loads, a model card, losses and checkpoints; stage 2 finds it"
        " in models/ of the project's folder, or by --adapter.",
        "kflm2.config.finetune:FinetuneConfig",
        "kflm2.stages.finetune.stage:run",
    ),
    Stage(
        "train",
        _PAPER,
        "[DATASET|CSV] [options]",
        "stage 2: train and measure a pipeline on a dataset or a CSV",
        "Predict molecular properties: LLM states of SMILES fused with a graph network over atoms.\n\nReads a table of"
        " molecules, splits it, trains one pipeline for every seed, and prints and writes how well it predicts:"
        " OUT/<dataset>/<model>/<split>-<seed>/ with result.json, predictions.csv and pictures, and a summary.",
        "kflm2.config.train:TrainConfig",
        "kflm2.stages.train.stage:run",
        table_first=True,
    ),
    Stage(
        "prompt",
        _PAPER,
        "[DATASET|CSV] [options]",
        "stage 3: prompt the LLM itself, and compare its answers with stage 2",
        "Prompt the LLM itself: fine-tuned on a dataset's prompts, it answers with the property, without any graph.\n\n"
        "Prints the metrics beside those of a trivial answer and of a pipeline of stage 2 on the same split, and writes"
        " OUT/<dataset>/prompt_<template>/<split>-<seed>/ with result.json and predictions.csv.",
        "kflm2.config.prompt:PromptConfig",
        "kflm2.stages.prompt.stage:run",
        table_first=True,
    ),
    Stage(
        "tune",
        _CHOOSE,
        "[DATASET|CSV] [options]",
        "search for hyperparameters, without the test part",
        "Search for settings of stage 2 that predict well; the test part is not used.\n\nSeveral processes may run the"
        " same command and share the study; a killed one loses nothing. Writes OUT/<dataset>/<model>/tune-<sampler>/"
        " with trials.csv, best.json for --config, and pictures.",
        "kflm2.config.tune:TuneConfig",
        "kflm2.stages.tune.stage:run",
        table_first=True,
    ),
    Stage(
        "compare",
        _CHOOSE,
        "FOLDER ... [options]",
        "which of several methods predicts better, and how sure that is",
        "Compare methods on the same runs, and state which differences can be believed.\n\nReads folders of results,"
        " runs baselines on their splits, and prints and writes paired differences with intervals, the tests that go"
        " with them, and a verdict a pair: OUT/<dataset>/ with compare.md, pairs.csv and pictures.",
        "kflm2.config.compare:CompareConfig",
        "kflm2.stages.compare.stage:run",
    ),
    Stage(
        "ablate",
        _CHOOSE,
        "[DATASET|CSV] [options]",
        "what LLM, graph and descriptors each add to a pipeline",
        "Leave views out of a pipeline, and measure what each adds: LLM, graph, descriptors, and what the LLM learnt.\n"
        "\nTrains every choice of views, an LLM before stage 1 and one with random weights, on the same splits; runs"
        " that are there already are kept. Then compares them, as `kflm2 compare` does:"
        " OUT/<model>-ablation/<dataset>/.",
        "kflm2.config.ablate:AblateConfig",
        "kflm2.stages.ablate:run",
        table_first=True,
    ),
    Stage(
        "predict",
        _USE,
        "MODEL FILE|SMILES ... [options]",
        "predict molecules with a model that train --save wrote",
        "Predict molecules with a model that `kflm2 train --save` wrote: a row for every row, in order.\n\nEach with an"
        " interval that holds the true value as often as --confidence states, whether the molecule is in the model's"
        " applicability domain, the most similar training molecule, and a status: ok, or why there is no prediction."
        " Ends with status 3 where some rows have none.",
        "kflm2.config.predict:PredictConfig",
        "kflm2.stages.predict.stage:run",
        look="kflm2.predictor.readers:check_features",
    ),
    Stage(
        "embed",
        _USE,
        "MODEL FILE|SMILES ... [options]",
        "vectors of molecules from such a model, for a model of your own",
        "Write vectors of molecules from a model that `kflm2 train --save` wrote: a row for every row, in order.\n\n"
        "The output of the fusion, the LLM's mean hidden states or the vector of the graph encoder, in a column"
        " `vector` of a Parquet file, for any model of your own. A molecule that cannot be read has no vector, and its"
        " status says why; then it ends with status 3.",
        "kflm2.config.embed:EmbedConfig",
        "kflm2.stages.embed:run",
        look="kflm2.predictor.readers:check_features",
    ),
    Stage(
        "explain",
        _USE,
        "MODEL FILE|SMILES ... [options]",
        "what drives a prediction: atoms, tokens, descriptors",
        "Show what drives predictions of a model that `kflm2 train --save` wrote: atoms, tokens and descriptors.\n\n"
        "Integrated gradients on all that the model reads, in the target's unit, with a check that the parts add up to"
        " the prediction; for classes the log-odds are explained. Writes OUT/ with a picture a molecule as SVG and PNG,"
        " maps of attention where tokens and atoms attend to each other, attributions.csv and explained.json. Ends with"
        " status 3 where some molecules have no prediction.",
        "kflm2.config.explain:ExplainConfig",
        "kflm2.stages.explain.stage:run",
        look="kflm2.predictor.readers:check_features",
    ),
    Stage(
        "distill",
        _USE,
        "MODEL --save STUDENT [options]",
        "train a fast student of a model, for millions of molecules",
        "Train a fast student of a model that `kflm2 train --save` wrote: a graph network, no LLM, no descriptors.\n\n"
        "It learns the model's predictions of unlabelled molecules beside the labels, on the model's own split, and is"
        " saved as any other model, with intervals of its own. Prints its metrics beside the teacher's.",
        "kflm2.config.distill:DistillConfig",
        "kflm2.stages.distill:run",
    ),
    Stage(
        "report",
        _USE,
        "FOLDER ... [-o FILE]",
        "one page of all results: metrics, pictures, a map, molecules",
        "Put the results of runs on one page for a browser: metrics, pictures, a map of molecules, the worst ones.\n\n"
        "The page is one file, uses no network, and has the same bytes for the same results.",
        "kflm2.config.report:ReportConfig",
        "kflm2.stages.report.stage:run",
    ),
    Stage(
        "serve",
        _USE,
        "MODEL [options]",
        "a page for a browser on this machine: paste molecules, see predictions",
        "Answer in a browser: a page on which molecules are pasted or dropped, predicted, explained and downloaded.\n\n"
        "Prints the page's address, and runs until Ctrl-C. The page uses no network, and is reached from this machine"
        " only, unless --host says otherwise; there is no login. Other programs send JSON to /api/predict. Needs"
        " `pip install kflm2[serve]`.",
        "kflm2.config.serve:ServeConfig",
        "kflm2.stages.serve.stage:run",
    ),
    Stage(
        "models",
        _ABOUT,
        "",
        "ready models: hydration, solubility, logd",
        "Print a table of the models that come with kflm2: what each predicts, learnt from what, and its error.\n\nIts"
        " name is a MODEL for predict, embed, explain, serve and `train --from`.",
        "kflm2.config.models:ModelsConfig",
        "kflm2.stages.models:run",
    ),
    Stage(
        "models pack",
        _ABOUT,
        "MODEL --save FOLDER",
        "a smaller copy of a model, without the SMILES that it learnt from",
        "Copy a model that `kflm2 train --save` wrote, to be given away: without the SMILES that it learnt from, its"
        " weights in half precision.\n\nThat hides no secret: fingerprints of these molecules stay in it, for the"
        " similarity to the nearest, and support vector machines and forests; structures could be guessed from these,"
        " and labels computed.",
        "kflm2.config.models:PackConfig",
        "kflm2.stages.pack:run",
    ),
    Stage(
        "datasets",
        _ABOUT,
        "[NAME ...]",
        "which datasets are here, and what is in them",
        "Print a table of the datasets: which are here, their rows, targets, classes and known dirt.",
        "kflm2.config.datasets:OverviewConfig",
        "kflm2.stages.datasets:overview",
    ),
    Stage(
        "datasets get",
        _ABOUT,
        "NAME ...|all [--from DIR]",
        "download datasets",
        "Download datasets into dataset/, each file checked by its SHA-256; a broken-off download is resumed.",
        "kflm2.config.datasets:DownloadConfig",
        "kflm2.stages.datasets:download",
    ),
    Stage(
        "datasets audit",
        _ABOUT,
        "DATASET|CSV [options]",
        "rejected rows, duplicates, leakage, similarity of test to training",
        "Look for what makes a dataset's metrics doubtful: unreadable rows, duplicates, leakage, tests close to"
        " training.\n\nWrites OUT/<dataset>/audit-<split>-<seed>/ with rejected.csv, duplicates.csv, leakage.csv,"
        " similarity.csv, audit.json and audit.png.",
        "kflm2.config.table:TableConfig",
        "kflm2.stages.audit.stage:run",
        table_first=True,
    ),
    Stage(
        "knowledge",
        _ABOUT,
        "[options]",
        "quantum chemistry of a corpus, for stage 1 to teach",
        "Compute xTB's numbers of the molecules of a corpus, as a table for `kflm2 finetune --knowledge`.\n\nWrites a"
        " Parquet file of SMILES, solvation free energies, orbitals, charges and the like, and a card beside it. Uses"
        " all cores; a killed computation goes on where it was.",
        "kflm2.config.knowledge:KnowledgeConfig",
        "kflm2.stages.knowledge:run",
    ),
    Stage(
        "llms",
        _ABOUT,
        "[options]",
        "LLMs: size, memory, which are here and which fit this machine",
        "Print what each LLM of the registry takes to run, whether it is on this machine, and whether it fits.",
        "kflm2.config.llms:LLMsConfig",
        "kflm2.stages.llms:run",
    ),
)

STAGES = {row.name: row for row in _ROWS}

# for thin scripts: from kflm2.cli import train
finetune, train, prompt, tune = (STAGES[name] for name in ("finetune", "train", "prompt", "tune"))
compare, ablate, predict, explain = (STAGES[name] for name in ("compare", "ablate", "predict", "explain"))
embed = STAGES["embed"]
distill, report, llms, knowledge = (STAGES[name] for name in ("distill", "report", "llms", "knowledge"))
serve = STAGES["serve"]
models, models_pack = STAGES["models"], STAGES["models pack"]
datasets, datasets_get, datasets_audit = (STAGES[name] for name in ("datasets", "datasets get", "datasets audit"))
