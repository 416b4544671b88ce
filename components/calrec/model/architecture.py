"""Where the parts of a causal LM lie, whatever its architecture."""

from typing import Any


def decoder(network: Any) -> Any:
    """The part whose last states the output layer reads.

    Raises:
        ValueError: the network has none that is told apart from itself.
    """
    from transformers import PreTrainedModel

    # The library's own answer is another part's name in some families, or the network itself.
    for found in (network.get_decoder(), network.base_model, getattr(network, "model", None)):
        if isinstance(found, PreTrainedModel) and found is not network:
            return found
    raise ValueError(f"{type(network).__name__} has no decoder of its own; use a causal LM such as Llama or Qwen")


def layers(network: Any) -> Any:
    """The decoder's layers: its uppermost list of modules, however deep it lies.

    Raises:
        ValueError: there is none.
    """
    from torch.nn import ModuleList

    level = [decoder(network)]
    while level:
        level = [child for module in level for child in module.children()]
        found = [module for module in level if isinstance(module, ModuleList) and len(module)]
        if found:
            return max(found, key=len)
    raise ValueError(f"{type(network).__name__} has no list of layers; use a causal LM such as Llama or Qwen")
