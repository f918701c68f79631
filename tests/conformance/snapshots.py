"""Everything about a model that an erasure must leave as it found it."""

import torch

from efface.hosts.components import components


def snapshot(model):
    """Copies values and records dtype, device, mode, gradients, hooks, processors and adapters."""
    return {
        f"{name}/{path}": facts
        for name, network in components(model).items()
        for path, module in network.named_modules()
        for facts in [module_facts(module)]
    }


def module_facts(module):
    return {
        "training": module.training,
        "class": type(module),
        "attributes": sorted(vars(module)),
        "hooks": [len(getattr(module, kind)) for kind in HOOKS],
        "processor": id(getattr(module, "processor", None)),
        "parameters": {name: facts(t) for name, t in module.named_parameters(recurse=False)},
        "buffers": {name: facts(t) for name, t in module.named_buffers(recurse=False)},
    }


HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
)


def facts(tensor):
    values = tensor.detach().flatten().contiguous().view(torch.uint8).numpy().tobytes()
    return values, tensor.dtype, tensor.device, tuple(tensor.shape), tensor.requires_grad


def differences(before, after):
    """Names the modules that are not as they were."""
    names = before.keys() | after.keys()
    return sorted(name for name in names if before.get(name) != after.get(name))
