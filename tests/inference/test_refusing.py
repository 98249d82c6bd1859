"""What would not be computed as the model computes it is refused by name, and what looks odd but is right is right."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses import FakeTensorMode

import neuralgraph as ng
from neuralgraph.errors import InputError

pytestmark = pytest.mark.usefixtures("two_threads")


def network():
    return ng.StaticNeuralGraph(ng.wirings.blocks([3, 8, 8, 2]), ng.TopK(k=40)).eval(), torch.randn(2, 3, 8, 8)


def classifier():
    return ng.models.create("tiny-static", in_channels=3, num_classes=3, image_size=8, k=300).eval(), torch.randn(2, 3, 8, 8)


def ordinary():
    """Dense layers between sparse ones."""
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.GELU(), nn.Conv2d(16, 4, 1)).eval(), \
        torch.randn(2, 3, 8, 8)


KINDS = {kind.__name__: kind for kind in (network, classifier, ordinary)}


@pytest.fixture(scope="module", params=KINDS)
def made(request):
    torch.manual_seed(0)
    model, x = KINDS[request.param]()
    with torch.no_grad():
        return ng.compile(model, x) if request.param == "ordinary" else ng.compile(model), x, model(x)


def in_autocast(fast, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return fast(x)


def faked(fast, x):
    with FakeTensorMode() as mode:
        return fast(mode.from_tensor(x))


def where_all_new_is_fake(fast, x):
    with FakeTensorMode(allow_non_fake_inputs=True):
        return fast(x)


@pytest.mark.parametrize("call, message", [
    (in_autocast, r"torch.autocast would change: call it in torch.autocast\('cpu', enabled=False\)"),
    (faked, "runs for its numbers"),
    (where_all_new_is_fake, "runs for its numbers"),
    (lambda fast, x: torch.vmap(fast)(x[:, None]), "runs for its numbers"),
    (lambda fast, x: torch.func.jvp(fast, (x,), (x,)), "runs for its numbers"),
    (lambda fast, x: torch.export.export(fast, (x,), strict=False), "runs for its numbers"),
    (lambda fast, x: fast(x.to_sparse()), r"layout torch.sparse_coo: use x.to_dense\(\)"),
    (lambda fast, x: fast(x.to_mkldnn()), "layout torch._mkldnn"),
    (lambda fast, x: fast(x.clone().requires_grad_()), "no gradients"),
    (lambda fast, x: fast.half(), "stays torch.float32 on the CPU, but should become torch.float16 on cpu: convert the model"),
    (lambda fast, x: fast.to(torch.float64), "should become torch.float64"),
    (lambda fast, x: nn.Sequential(fast).to("meta"), "should become torch.float32 on meta"),
])
def test_what_kernels_cannot_do(made, call, message):
    fast, x, expected = made
    with pytest.raises(InputError, match=message):
        call(fast, x)
    torch.testing.assert_close(fast.float().cpu()(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_tracing(made):
    fast, x, _ = made
    with pytest.raises((InputError, RuntimeError), match="runs for its numbers|dynamo-optimized"):  # the latter by torch 2.2
        torch.jit.trace(fast, (x,))


class Own(torch.Tensor):
    pass


def test_what_looks_odd_and_is_right(made):
    fast, x, expected = made
    close = dict(rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fast(x.as_subclass(Own)).as_subclass(torch.Tensor), expected, **close)
    torch.testing.assert_close(fast(nn.Parameter(x, requires_grad=False)), expected, **close)
    with torch.inference_mode():
        torch.testing.assert_close(fast(x), expected, **close)
        inner = x.clone()
    torch.testing.assert_close(fast(inner), expected, **close)
    other = copy.deepcopy(fast)  # memory is laid out anew
    torch.set_default_device("meta")
    try:
        torch.testing.assert_close(other(x), expected, **close)
    finally:
        torch.set_default_device(None)
    torch.testing.assert_close(fast(x.contiguous(memory_format=torch.channels_last)), expected, **close)
    torch.testing.assert_close(fast(x.transpose(0, 2).contiguous().transpose(0, 2)), expected, **close)
    torch.testing.assert_close(fast(x[:1].expand(3, -1, -1, -1)), expected[:1].expand(3, *expected.shape[1:]), **close)


# ---------------------------------------------------------------------------------- ordinary models


class Model(nn.Module):
    def __init__(self, call, **parts):
        super().__init__()
        self.layer, self.call, self.count = nn.Linear(6, 6), call, 0
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.call(self, x)


def counted(model, x):
    model.count += 1
    return model.layer(x) * model.count


@pytest.mark.parametrize("call, message", [
    (counted, "does not repeat"),
    (lambda model, x: model.layer(x)[x[:, 0] > 0], "the size of a tensor depends on numbers in others"),
    (lambda model, x: F.linear(model.layer(x).double(), model.layer.weight), "cannot be run on its example: RuntimeError"),
    (lambda model, x: torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y - 1, (model.layer(x),)), "cannot compile"),
])
def test_models_that_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        ng.compile(Model(call), torch.randn(3, 6))


class Raised(ng.SparseLinear):
    def forward(self, x):
        return super().forward(x) + 1


class Noted(ng.SparseLinear):
    def note(self):
        return "what no ordinary layer has"


def test_sparse_layers_of_a_class_of_their_own():
    model = ng.sparsify(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)), density=0.5)
    model[2].__class__ = Raised
    for make in (ng.densify, lambda model: ng.compile(model, torch.randn(3, 6))):
        with pytest.raises(InputError, match="the layer '2', a Raised, has forward of its own, which no ordinary layer"):
            make(model)
    model[2].__class__ = Noted
    x = torch.randn(3, 6)
    with torch.no_grad():
        torch.testing.assert_close(ng.compile(model, x)(x), model.eval()(x))


class Masked(nn.Module):
    def __init__(self, nests):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nests)

    def forward(self, x, mask):
        return self.encoder(x, src_key_padding_mask=mask)


def test_what_torch_runs_in_another_way_than_it_exports():
    x, mask = torch.randn(3, 5, 8), (torch.arange(5) > 2).expand(3, 5)
    for example in (mask, torch.zeros_like(mask)):  # where nothing is hidden both do the same
        with pytest.raises(InputError, match="make it with enable_nested_tensor=False"):
            ng.compile(Masked(True).eval(), (x, example))
    model = Masked(False).eval()
    with torch.no_grad():
        torch.testing.assert_close(ng.compile(model, (x, mask))(x, mask), model(x, mask))


def test_results_of_another_kind_are_refused():
    fast = ng.compile(Model(lambda model, x: model.layer(x)), torch.randn(3, 6))
    fast._model[0].call = lambda model, x: model.layer(x)[None]
    with pytest.raises(InputError, match=r"output 0 is torch.float32 of shape \(1, 3, 6\), what is compiled gives .* \(3, 6\)"):
        fast._compare((torch.randn(3, 6),))
    fast._model[0].call = lambda model, x: [model.layer(x)]
    with pytest.raises(InputError, match="it returns"):
        fast._compare((torch.randn(3, 6),))


def test_what_cannot_be_copied_or_has_no_numbers():
    with pytest.raises(InputError, match=r"cannot compile this Model: no copy of it can be put .* \(TypeError: cannot pickle"):
        ng.compile(Model(lambda model, x: model.layer(x), lock=threading.Lock()), torch.randn(3, 6))
    with pytest.raises(InputError, match="cannot compile this Linear: no copy of it can be put on the CPU"):
        ng.compile(nn.Linear(6, 6, device="meta"), torch.randn(3, 6))
    with pytest.raises(InputError, match=r"with numbers, .* got shape \(3, 6\) on meta"):
        ng.compile(nn.Linear(6, 6), torch.empty(3, 6, device="meta"))
    with torch.autocast("cpu"), pytest.raises(InputError, match="torch.autocast would change"):
        ng.compile(nn.Linear(6, 6), torch.randn(3, 6))
    with pytest.raises(InputError, match="takes its arguments by place, got x by name"):
        ng.compile(nn.Linear(6, 6), torch.randn(3, 6))(x=torch.randn(3, 6))


def test_no_samples_give_what_the_model_gives():
    model = Model(lambda model, x: (model.layer(x).t(), {"sums": model.layer(x).sum(1)}, model.table),
                  table=nn.Parameter(torch.ones(2)))
    x = torch.randn(3, 6)
    with torch.no_grad():
        torch.testing.assert_close(ng.compile(model, x)(x[:0]), model(x[:0]))


def test_recurrent_layers():
    recurrent = nn.LSTM(6, 5, 2, batch_first=True).eval()
    x = torch.randn(3, 4, 6)
    with torch.no_grad():
        for batch in (1, 3):
            torch.testing.assert_close(ng.compile(recurrent, x)(x[:batch]), recurrent(x[:batch]))


@pytest.mark.parametrize("call, shape", [(lambda model, x: model.layer(x).sum(0), "6,"),
                                         (lambda model, x: model.layer(x).mean(), "")])
def test_no_samples_are_refused_where_a_result_is_of_all_of_them(call, shape):
    fast, x = ng.compile(Model(call), torch.randn(3, 6)), torch.randn(3, 6)
    with pytest.raises(InputError, match=rf"needs at least one sample: its result 0, of shape \({shape}\), is not one of samples"):
        fast(x[:0])


def test_results_are_the_callers():
    """What is done to one in place changes no other result, now or later; nor the input that was copied."""
    model = Model(lambda model, x: (model.table[:x.shape[0]], y := model.layer(x), y.clone(), model.table, x.clone()),
                  table=nn.Parameter(torch.randn(9, 2)))
    x = torch.randn(3, 6)
    fast, given = ng.compile(model, x), x.clone()
    expected = [result.detach().clone() for result in model(x)]
    for _ in range(2):
        for result, value in zip(fast(x), expected):
            torch.testing.assert_close(result, value)
            result.zero_()
    assert torch.equal(x, given)


def test_sizes_that_several_threads_see_first():
    model, x = ordinary()
    model.requires_grad_(False)
    fast, xs = ng.compile(model, x), [torch.randn(2, 3, 8 + number % 3, 8 + number % 2) for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        for got, y in zip(pool.map(fast, xs), xs):
            torch.testing.assert_close(got, model(y), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("slope", [2.0, -0.5, 1.0, -2.0])
def test_any_slope(slope):
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(slope)).eval(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(ng.compile(model, x)(x), model(x))


class Sizes(nn.Module):
    """Sizes that follow from the number of samples in other ways than by a factor."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        y = self.layer(x)
        return y[:4], y[::2].relu(), y.chunk(2)[0], y @ y.t(), y[-1], y / len(x), y.cumsum(0), y - y.mean(0)


def test_sizes_that_follow_from_the_number_of_samples(tmp_path):
    model, x = Sizes().eval(), torch.randn(7, 6)
    fast = ng.compile(model, x)
    for batch in (7, 6, 3, 2, 1):
        with torch.no_grad():
            torch.testing.assert_close(fast(x[:batch]), model(x[:batch]))
    fast.save(tmp_path / "fast.ng")
    again = ng.inference.load(tmp_path / "fast.ng")
    for batch in (7, 6, 3, 2, 1):
        torch.testing.assert_close(again(x[:batch]), fast(x[:batch]))
