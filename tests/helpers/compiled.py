"""Networks as after training, compiled, against themselves."""

import json

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from neuralgraph._files import digest
from neuralgraph.inference import CompiledNetwork
from neuralgraph.plan import checked, run


def perturb(module, seed=0):
    """Values of trained norms: constants are not 0, so nothing that is folded goes unseen."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in (*module.named_parameters(), *module.named_buffers()):
            if name.endswith(("running_var",)):
                value.copy_(torch.rand(value.shape, generator=g, dtype=value.dtype) + 0.5)
            elif name.endswith(("bias", "running_mean")) or name.endswith("weight") and value.dim() == 1 \
                    and "functions" in name:
                value.copy_(torch.randn(value.shape, generator=g, dtype=value.dtype) * 0.5 + 0.3)
    return module.eval()


def plans_of(fast):
    """The plans in it, each checked, and what they are joined to for the sizes it has seen."""
    found = [module for module in fast.modules() if isinstance(module, CompiledNetwork)]
    return [checked(plan) for network in found for plan in (
        *network.plans, *(layout.plan for layout in network._layouts.values()))]


def same(network, fast, shape, seed=0, tolerance=1e-10, dtype=torch.float64):
    x = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expected = network(x)
        if isinstance(fast, CompiledNetwork) and x.numel() < 2000:  # the plan as plain torch runs it
            (made,) = fast.plans
            scale = max(1.0, expected.abs().max().item())
            torch.testing.assert_close(run(made, x), expected, rtol=0, atol=tolerance * scale)
        for _ in range(2):  # the second time in used memory
            actual = fast(x)
            scale = max(1.0, expected.abs().max().item())
            torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * scale)
    assert plans_of(fast)


def content_of(path):
    """The arrays and the header of a compiled model's file."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["neuralgraph compiled"])


def rewrite(path, arrays, header):
    """A file whose digest fits, whatever is in it."""
    header = {key: value for key, value in header.items() if key != "digest"}
    header["digest"] = digest(arrays, header)
    save_file(arrays, path, metadata={"neuralgraph compiled": json.dumps(header)})


MODELS = [("tiny-static", dict(k=4000), 32), ("tiny-discrete", dict(k=6000), 32),
          ("mobilenet-dnw", dict(width=0.1), 32), ("mobilenet-dnw-small", dict(width=0.1), 32),
          ("mobilenet-dnw", dict(width=0.05), 64), ("mobilenet-v1", dict(width=0.25), 32)]
