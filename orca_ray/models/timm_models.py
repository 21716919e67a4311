"""Bodies from timm, by the names that timm gives them."""

from typing import Any

from orca_ray.errors import UserError, nearest


def check_timm(name: str) -> None:
    """Raise UserError for a name that timm does not know."""
    import timm

    if not timm.is_model(name):
        close = nearest(name.split(".")[0], timm.list_models())
        question = f" Did you mean 'timm:{close}'?" if close else ""
        raise UserError(f"unknown timm body {name!r}.{question} `timm.list_models()` lists them all.")


def create_timm(name: str, pretrained: bool) -> Any:
    """Create a timm model without its classifier; UserError for a misspelt name or weights that cannot be had."""
    import timm

    check_timm(name)
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:  # timm passes on whatever the hub client raises
        raise UserError(f"cannot get the weights of timm body {name!r}: {str(error).splitlines()[0]}") from error
