"""`kflm2 models pack`: a model to be given away."""

from kflm2.config.models import PackConfig
from kflm2.errors import KFLM2Error, SettingError
from kflm2.predictor.bundle import check_destination, saved_as
from kflm2.predictor.bundle_reader import load_bundle
from kflm2.predictor.export import card
from kflm2.predictor.manifest import BundleError


def run(config: PackConfig) -> None:
    """Write a copy of a saved model without the SMILES that it learnt from; see Bundle.pack.

    Args:
        config: checked.

    Raises:
        KFLM2Error: the model cannot be used, or the folder cannot be written.
    """
    assert config.save is not None
    check_destination(config.save)
    if saved_as(config.save) is not None and not config.again:
        raise SettingError(f"save: {config.save} holds a model: name another folder, or replace it by --again")
    bundle = load_bundle(config.model, config.llm)
    try:
        bundle = bundle.pack()
        text = card(bundle, config.save.name)
    except KFLM2Error:
        raise
    except Exception as error:  # what a folder from elsewhere says of its making can be anything
        raise BundleError(f"{config.model} does not say rightly how it was made: {error!r}") from error
    bundle.save(config.save, text)
    size = sum(path.stat().st_size for path in config.save.rglob("*") if path.is_file())
    print(f"packed    {config.save}, {size / 1e6:.1f} MB: kflm2 predict {config.save} molecules.csv -o predicted.csv")
