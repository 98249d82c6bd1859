"""Training on a GPU: steps of the models, the masked product against the plain one, the choice of the k largest.

    python benchmarks/gpu.py [--parts NAME...] [--ways NAME...] [--authors CHECKOUT] [--rounds N] [--json FILE]

"Plain operations" are PyTorch's, "fused nodes" this library's kernels for norm, activation and convolution, which the
backend "auto" takes; the products are PyTorch's, whose factors it may round to TF32 where nothing else is said.
"""

import argparse
import contextlib
import time
from functools import partial

import torch
import torch.nn.functional as F
from common import alternate, authors_model, report, save
from torch import nn

import neuralgraph as ng
from neuralgraph.selectors.groups import top_k

STEPS = {"tiny-static": 512, "tiny-discrete": 512, "mobilenet-dnw": 128}  # batch sizes of the paper
PRODUCTS = ((192, 768, 512 * 64), (800, 800, 512 * 64), (1024, 512, 128 * 16))  # destinations, sources, pixels of a batch
DENSITIES = 0.02, 0.1, 0.5
CANDIDATES = ((325_760, 32_000), (640_000, 32_000), (4_700_000, 200_000))


@contextlib.contextmanager
def tf32(allowed):
    """Whether products may round their factors to TF32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def step_of(model, batch, precision=torch.float32, allowed=True, mode=None):
    """A function that makes one step of training, and waits until it is done."""
    model = model.cuda().train()
    images, labels = torch.randn(batch, 3, 32, 32, device="cuda"), torch.randint(10, (batch,), device="cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    with torch.no_grad():
        model.eval()(images)  # lays out the graph's stages, which torch.compile then finds
    model.train()
    forward = model if mode is None else torch.compile(model, mode=mode, dynamic=False)

    def step():
        with tf32(allowed):
            with torch.autocast("cuda", precision, precision != torch.float32):
                loss = F.cross_entropy(forward(images).float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.item()
    return step


def steps(name, rounds, authors, ways, profile, results):
    batch, options = STEPS[name], dict(width=0.225) if name.startswith("mobilenet") else {}

    def new(backend="auto"):
        return ng.models.create(name, num_classes=10, image_size=32, backend=backend, **options)

    known = {"plain operations, no TF32": dict(backend="dense", allowed=False), "plain operations": dict(backend="dense"),
             "fused nodes, no TF32": dict(allowed=False), "fused nodes": {},
             "fused nodes, bfloat16": dict(precision=torch.bfloat16),
             "torch.compile": dict(backend="dense", mode="default"),
             "torch.compile, bfloat16": dict(backend="dense", mode="default", precision=torch.bfloat16),
             "torch.compile, CUDA graphs": dict(backend="dense", mode="reduce-overhead"),
             "fused nodes, torch.compile": dict(mode="default"),
             "fused nodes, torch.compile, CUDA graphs": dict(mode="reduce-overhead")}

    def the_authors():
        return step_of(Logits(authors_model(authors, name, device="cuda")), batch)

    def this_librarys(how):
        how = dict(how)
        return step_of(new(how.pop("backend", "auto")), batch, **how)

    makers = {"the authors' code": the_authors} if authors else {}
    makers |= {way: partial(this_librarys, known[way]) for way in ways or known}
    working = {}
    for way, make in makers.items():
        began = time.perf_counter()
        try:
            step = make()
            for _ in range(3):
                step()
            working[way] = step
            print(f"{name}, {way}: ready after {time.perf_counter() - began:.0f} s", flush=True)
        except Exception as error:  # one way that fails must not hide the others
            print(f"{name}, {way}: {type(error).__name__}: {str(error)[:500]}", flush=True)
    if not working:
        return
    if profile:
        for way, step in working.items():
            print(f"\n{name}, {way}\n{kernels_of(step)}")
    times = alternate(working, rounds, warm_up=2)
    report(f"training step of {name}, batch {batch}", times, next(iter(times)), results, model=name, batch=batch,
           gpu=torch.cuda.get_device_name())


def kernels_of(step, number=14):
    """A table of what takes longest on the GPU, over five steps."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]) as seen:
        for _ in range(5):
            step()
    events = [event for event in seen.key_averages() if event.device_type == torch.autograd.DeviceType.CUDA
              and not event.key.startswith("Optimizer.")]  # which spans others
    events.sort(key=lambda event: -event.self_device_time_total)
    lines = [f"  {event.self_device_time_total / 5000:8.3f} ms {event.count / 5:6.1f} x  {event.key[:90]}" for event in events]
    total = sum(event.self_device_time_total for event in events) / 5000
    return "\n".join([f"  {total:8.3f} ms in all, {sum(event.count for event in events) / 5:.0f} launches", *lines[:number]])


class Logits(nn.Module):
    """A model whose outputs are numbers of classes, whatever map they come in."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).flatten(1)


def timed(run):
    def wait():
        for _ in range(10):
            run()
        torch.cuda.synchronize()
    return wait


def products(rounds, results):
    """Forward and backward of one product with a matrix of which few entries are real."""
    for destinations, sources, pixels in PRODUCTS:
        x = torch.randn(sources, pixels, device="cuda", requires_grad=True)
        weight = torch.randn(destinations, sources, device="cuda", requires_grad=True)
        for density in DENSITIES:
            k = round(density * weight.numel())

            def masked():
                mask = top_k(weight.detach().view(-1), k, by_magnitude=True).view_as(weight)
                effective = weight.detach() * mask + (weight - weight.detach())
                (effective @ x).backward(gradient)

            def plain():
                (weight @ x).backward(gradient)

            def csr():
                sparse = (weight.detach() * mask_once).to_sparse_csr()
                (sparse @ x.detach())

            gradient = torch.randn(destinations, pixels, device="cuda")
            mask_once = top_k(weight.detach().view(-1), k, by_magnitude=True).view_as(weight)
            sparse_once = (weight.detach() * mask_once).to_sparse_csr()

            def csr_forward():
                sparse_once @ x.detach()

            def plain_forward():
                weight.detach() @ x.detach()

            for allowed in (False, True):
                with tf32(allowed):
                    times = alternate({name: timed(run) for name, run in {
                        "plain product": plain, "top k, masked product": masked, "forward alone, plain": plain_forward,
                        "forward alone, CSR": csr_forward}.items()}, rounds)
                report(f"ten products {destinations}x{sources} with {pixels} columns, {density:.0%} real, "
                       f"{'TF32' if allowed else 'float32'}", times, "plain product", results, density=density)


def choices(rounds, results):
    for number, k in CANDIDATES:
        weight = torch.randn(number, device="cuda")
        times = alternate({name: timed(run) for name, run in {
            "the k largest of this library": lambda: top_k(weight, k, by_magnitude=True),
            "torch.kthvalue": lambda: weight.abs().kthvalue(number - k + 1),
            "torch.sort": lambda: weight.abs().sort(),
        }.items()}, rounds)
        report(f"ten choices of {k} of {number}", times, "the k largest of this library", results, candidates=number)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", default=[*STEPS, "products", "choices"])
    parser.add_argument("--authors")
    parser.add_argument("--ways", nargs="+", help="of making a step; by default all")
    parser.add_argument("--profile", action="store_true", help="print the kernels that take longest")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    found: list[dict] = []
    for part in arguments.parts:
        if part == "products":
            products(arguments.rounds, found)
        elif part == "choices":
            choices(arguments.rounds, found)
        else:
            steps(part, arguments.rounds, arguments.authors, arguments.ways, arguments.profile, found)
        save(arguments.json, found)  # after each part: the next may take all the time there is
