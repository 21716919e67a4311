"""What the refine loop does for speed changes nothing but speed: passes, precision, checkpointing, feeds, figures."""

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from orca_ray.data.prepared import Split
from orca_ray.data.rows import JoinedRows, Rows, row_slices
from orca_ray.data.target import Target
from orca_ray.errors import UserError
from orca_ray.models.checkpointing import checkpoint_layers, repeated_layers
from orca_ray.models.crossmodal import CrossModalModel, build_model
from orca_ray.models.modality import EmbedderConfig
from orca_ray.training import compiling, feed, micro_batch, passes, refine
from orca_ray.training.errors import NotFiniteError
from orca_ray.training.evaluate import predict, predict_feed
from orca_ray.training.feed import Feed, make_feed
from orca_ray.training.micro_batch import CPU_TENSOR_BYTES, even_passes, samples_per_pass
from orca_ray.training.objective import Objective
from orca_ray.training.passes import Passes
from orca_ray.training.precision import Precision, choose_precision
from orca_ray.training.probe import Cost, measure
from orca_ray.training.refine import RefineConfig, RefineLoop
from orca_ray.training.runtime import computing
from orca_ray.training.samples import Part, ResidentSamples, Samples, StreamedSamples, make_samples, put_together
from orca_ray.training.throughput import PEAKS, peak_flops, throughput

from .training_toys import CPU, OBJECTIVE, copy_of, same, toy_model, toy_split

EXACT = Precision("float32", CPU)
TARGET = Target("classes", size=3)
SHAPE = (1, 32)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    from transformers import BertConfig, BertModel

    directory = tmp_path_factory.mktemp("bert")
    config = BertConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64, vocab_size=50,
        max_position_embeddings=32,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(directory)
    return str(directory)


def real_model(body: str, dropout: float = 0.0) -> CrossModalModel:
    config = EmbedderConfig(sequence_length=8)
    return build_model(
        input_shape=SHAPE, target=TARGET, body=body, pretrained=True, config=config, dropout=dropout, seed=0
    )


def real_split(num_samples: int) -> Split:
    random = np.random.RandomState(0)
    return Split(random.normal(size=(num_samples, *SHAPE)).astype(np.float32), np.arange(num_samples) % 3)


def make_passes(model: CrossModalModel, split: Split, precision: Precision = EXACT, **options: Any) -> Passes:
    config = RefineConfig(**options)
    feed = Feed(split.x, model, precision)
    loss = OBJECTIVE.training_loss(split.y, CPU)
    return Passes(model, list(model.parameters()), feed, split.y, loss, config, seed=0)


def gradient(work: Passes, model: nn.Module, num_samples: int) -> Tensor:
    model.zero_grad()
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        next(work.gradients([np.arange(num_samples)[::-1].copy()]))
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("limit", [1, 3, 7, 12, 40])
def test_the_gradient_does_not_depend_on_the_pass(bert: str, limit: int) -> None:
    model = real_model(bert)
    work = make_passes(model, real_split(12))
    work.limit = 12
    expected = gradient(work, model, 12)
    work.limit = limit
    torch.testing.assert_close(gradient(work, model, 12), expected, rtol=1e-4, atol=1e-6)


def test_only_the_product_of_batch_size_and_accumulation_matters() -> None:
    weights = []
    for batch_size, accumulation in ((2, 16), (32, 1)):
        model = toy_model(dropout=0.3)
        config = RefineConfig(epochs=1, dropout=0.3, batch_size=batch_size, accumulation=accumulation)
        RefineLoop(model, model.parameters(), toy_split(75), toy_split(9), OBJECTIVE, config, seed=0, device=CPU).step()
        weights.append(copy_of(model))
    assert same(*weights)


def kept_by_autograd(model: CrossModalModel, x: Tensor) -> int:
    kept: dict[int, int] = {}
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(x)
    assert output.requires_grad
    return sum(kept.values())


def test_a_pass_stays_within_the_memory_budget(bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, split = real_model(bert), real_split(64)
    work = make_passes(model, split, batch_size=64)
    assert work.cost.saved_bytes == pytest.approx(kept_by_autograd(model, torch.from_numpy(split.x[:16])) / 16, rel=0.1)
    budget = 10 * work.cost.saved_bytes
    monkeypatch.setattr(passes, "budget_bytes", lambda memory_mib, device: budget)
    work = make_passes(model, split, batch_size=64)
    assert 4 <= work.micro_batch <= work.limit < 10
    assert kept_by_autograd(model, torch.from_numpy(split.x[: work.limit])) <= budget


def test_limits_of_a_pass() -> None:
    small = Cost(saved_bytes=2**20, largest_bytes=2**10, flops=1, num_tokens=1)
    assert samples_per_pass(small, 100 * 2**20, CPU) == 80  # a quarter on top
    assert samples_per_pass(small, 100 * 2**20, CPU, extra_bytes=2**20) == 40
    assert samples_per_pass(small, 1, CPU) == 1
    wide = Cost(saved_bytes=2**20, largest_bytes=CPU_TENSOR_BYTES // 3, flops=1, num_tokens=1)
    assert samples_per_pass(wide, 2**40, CPU) == 3
    assert samples_per_pass(wide, 2**40, torch.device("cuda")) == 1024
    assert [even_passes(64, limit) for limit in (1, 21, 40, 64, 99)] == [1, 16, 32, 64, 64]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_keeps_gradients_and_saves_memory(bert: str, dropout: float) -> None:
    split = real_split(12)
    model = real_model(bert, dropout)
    plain = make_passes(model, split)
    plain.limit = 12
    expected = gradient(plain, model, 12)
    x = torch.from_numpy(split.x)
    model.train()
    before = kept_by_autograd(model, x)
    work = make_passes(model, split, gradient_checkpointing="on")
    work.limit = 12
    assert torch.equal(gradient(work, model, 12), expected)
    assert kept_by_autograd(model, x) < 0.5 * before
    assert work.cost == plain.cost  # recomputing is no part of the model's own operations
    assert not work.notes


def test_checkpointing_leaves_the_bound_on_single_tensors(bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, split = real_model(bert), real_split(64)
    plain = make_passes(model, split, batch_size=64)
    monkeypatch.setattr(micro_batch, "CPU_TENSOR_BYTES", 5 * plain.cost.largest_bytes)
    assert make_passes(model, split, batch_size=64).limit == 5
    assert make_passes(model, split, batch_size=64, gradient_checkpointing="on").limit == 5


def layer_names(module: Any) -> list[str]:
    return [type(layer).__name__ for layer in repeated_layers(module)]


def test_repeated_layers_are_found() -> None:
    from transformers import AutoConfig, AutoModel

    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 3}
    for kind, layer in (("bert", "BertLayer"), ("mpnet", "MPNetLayer"), ("vit", "ViTLayer")):
        model = AutoModel.from_config(AutoConfig.for_model(kind, **sizes))
        assert layer_names(model) == [layer] * 3
    config = AutoConfig.for_model("swin", depths=[1, 2], num_heads=[1, 2], embed_dim=8, image_size=32, window_size=2)
    assert layer_names(AutoModel.from_config(config)) == ["SwinLayer"] * 3
    assert checkpoint_layers(nn.Linear(2, 2)) == 0


def test_checkpointing_a_body_without_layers_is_told() -> None:
    assert "no repeated layers" in make_passes(toy_model(), toy_split(9), gradient_checkpointing="on").notes[0]


PARTS: list[Part] = [np.array([5, 0, 5]), slice(2, 7), np.array([1])]


def test_streamed_rows_are_the_resident_ones(tmp_path: Path) -> None:
    split = toy_split(20)
    np.save(tmp_path / "x.npy", split.x[:])
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    resident = list(ResidentSamples([x, split.y], CPU).batches(PARTS))
    streamed = list(StreamedSamples([x, split.y], CPU).batches(PARTS))
    assert len(resident) == len(PARTS)
    for part, first, second in zip(PARTS, resident, streamed, strict=True):
        np.testing.assert_array_equal(first[0].numpy(), split.x[part])
        for one, other in zip(first, second, strict=True):
            assert torch.equal(one, other)
            assert one.dtype == other.dtype
    assert not resident[1][0].numpy().flags.owndata  # a slice is no copy


def test_streaming_may_be_left_early_and_passes_errors_on() -> None:
    rows = StreamedSamples([toy_split(20).x], CPU)
    many: list[Part] = [slice(0, 2)] * 50
    stream = rows.batches(many)
    next(stream)
    cast(Any, stream).close()  # would hang if its thread waited on
    with pytest.raises(IndexError):
        list(rows.batches([np.array([99])]))


def test_a_split_goes_to_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Sequence[np.ndarray | Tensor]] = []

    def note(arrays: Sequence[np.ndarray | Tensor], device: torch.device) -> Samples:
        made.append(arrays)
        return ResidentSamples(arrays, device)

    monkeypatch.setattr(feed, "make_samples", note)
    model = toy_model()
    config = RefineConfig(epochs=3)
    loop = RefineLoop(model, model.parameters(), toy_split(40), toy_split(9), OBJECTIVE, config, seed=0, device=CPU)
    while not loop.done:
        loop.step()
    assert [len(arrays) for arrays in made] == [2, 1]  # training inputs and targets, validation inputs


def test_cached_features_are_made_in_the_precision_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "make_samples", lambda arrays, device: ResidentSamples(arrays, CPU))
    model, seen = toy_model(), set[str]()
    model.body.register_forward_hook(lambda *_: seen.add(torch.get_float32_matmul_precision()))
    before = torch.get_float32_matmul_precision()
    precision = Precision("tf32", torch.device("cuda"))
    made = make_feed(model, model.head.parameters(), toy_split(9).x, stochastic=False, precision=precision)
    assert made.network is model.head
    assert seen == {"high"}
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_predictions_do_not_depend_on_the_batch(bert: str, precision: str) -> None:
    model, split = real_model(bert).eval(), real_split(37)
    chosen = Precision(precision, CPU)
    feed = Feed(split.x, model, chosen)
    expected = predict(model, split.x, OBJECTIVE, CPU, precision=chosen)
    for size in (1, 5, 37, 500):
        np.testing.assert_allclose(
            predict_feed(feed, OBJECTIVE, size)[0], expected, atol=1e-5 if precision == "float32" else 0.05
        )


def test_bfloat16_is_for_the_body_alone(bert: str) -> None:
    model = real_model(bert)
    seen: dict[str, torch.dtype] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        return lambda module, inputs, output: seen.update({name: output.dtype})

    model.embedder.register_forward_hook(watch("embedder"))
    model.head.output.register_forward_hook(watch("head"))  # type: ignore[union-attr]
    repeated_layers(model.body)[0].get_submodule("intermediate.dense").register_forward_hook(watch("body"))
    with Precision("bfloat16", CPU).autocast():
        model(torch.from_numpy(real_split(2).x))
    assert seen == {"embedder": torch.float32, "body": torch.bfloat16, "head": torch.float32}


def test_precision_is_chosen_by_device_and_width(monkeypatch: pytest.MonkeyPatch) -> None:
    for amx, width, expected in ((True, 768, "bfloat16"), (True, 384, "float32"), (False, 768, "float32")):
        monkeypatch.setattr("orca_ray.training.precision.has_bfloat16_units", lambda device, amx=amx: amx)
        assert choose_precision("auto", CPU, width).name == expected
    assert choose_precision("bfloat16", CPU, 16) == Precision("bfloat16", CPU)
    lacking = choose_precision("tf32", CPU, 16)
    assert lacking.name == "float32"
    assert lacking.note == "refined in float32, for this cpu device has no tf32"


def test_flags_of_precision_are_put_back() -> None:
    def flags() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = flags()
    with Precision("tf32", torch.device("cuda")).active():
        assert flags() == ("high", True)
    with Precision("float32", torch.device("cuda")).active():
        assert flags() == ("highest", False)
    assert flags() == before
    torch.set_float32_matmul_precision("medium")
    try:
        with computing(1, deterministic=False):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before[0])


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_nan_ends_the_trial_before_it_can_be_the_best(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the loss is looked at only once in many steps, as on devices where looking means waiting."""
    train = toy_split(40)
    train.x[:][17] = np.nan
    model = toy_model()
    config = RefineConfig(epochs=2, batch_size=4)
    loop = RefineLoop(model, model.parameters(), train, toy_split(9), OBJECTIVE, config, seed=0, device=CPU)
    looks: list[Tensor] = []
    look = loop._check
    last_only = device == "meta"  # stands for a device whose losses are looked at once an epoch

    def check(loss: Tensor) -> None:
        looks.append(loss)
        if not last_only or loss.dtype == torch.float64:
            look(loss)

    monkeypatch.setattr(loop, "_check", check)
    with pytest.raises(NotFiniteError, match="training loss is nan in epoch 1"):
        loop.step()
    assert (loop.best_epoch, loop.epoch) == (None, 0)
    assert len(looks) == 11 if last_only else len(looks) < 11


def test_a_pass_too_large_for_the_device_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    def curve(most: int) -> tuple[float, list[str], int, dict[str, Tensor]]:
        model = toy_model()
        config = RefineConfig(epochs=1, batch_size=32)
        loop = RefineLoop(model, model.parameters(), toy_split(75), toy_split(9), OBJECTIVE, config, seed=0, device=CPU)
        inner = Passes._loss_of

        def loss_of(self: Passes, x: Tensor, y: Tensor) -> Tensor:
            if len(x) > most:
                raise torch.OutOfMemoryError("no memory")
            return inner(self, x, y)

        with monkeypatch.context() as patch:
            patch.setattr(Passes, "_loss_of", loss_of)
            loss = loop.step().loss
        return loss, loop.notes, loop.micro_batch, copy_of(model)

    loss, notes, micro_batch, weights = curve(8)
    expected, no_notes, whole, expected_weights = curve(64)
    assert (micro_batch, whole, no_notes) == (8, 32, [])
    assert notes == [f"a pass of {size} samples did not fit the device's memory, halved" for size in (32, 16)]
    assert loss == pytest.approx(expected, rel=1e-5)
    for name, value in weights.items():
        torch.testing.assert_close(value, expected_weights[name], rtol=1e-3, atol=1e-5)
    with pytest.raises(torch.OutOfMemoryError):
        curve(0)


def test_smaller_passes_are_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[int] = []

    def try_compile(network: nn.Module, run: object) -> tuple[nn.Module, None]:
        compiled.append(loop.micro_batch)
        return network, None

    monkeypatch.setattr(passes, "try_compile", try_compile)
    model = toy_model()
    config = RefineConfig(epochs=4, batch_size=32, compile="on")
    loop = RefineLoop(model, model.parameters(), toy_split(75), toy_split(9), OBJECTIVE, config, seed=0, device=CPU)
    inner = Passes._loss_of

    def loss_of(self: Passes, x: Tensor, y: Tensor) -> Tensor:
        if len(x) > 16:
            raise torch.OutOfMemoryError("no memory")
        return inner(self, x, y)

    loop.step()
    with monkeypatch.context() as patch:
        patch.setattr(Passes, "_loss_of", loss_of)
        for _ in range(3):
            loop.step()
    assert compiled == [32, 16]


def test_a_head_alone_is_measured_in_its_own_precision(bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = real_model(bert), RefineConfig(epochs=1, precision="bfloat16")
    loop = RefineLoop(
        model, model.head.parameters(), real_split(20), real_split(9), OBJECTIVE, config, seed=0, device=CPU
    )
    loop.step()
    seen: list[str] = []
    monkeypatch.setattr(refine, "throughput", lambda *arguments: seen.append(arguments[-1].name))
    loop.throughput()
    assert (seen, loop.precision.name) == (["float32"], "bfloat16")


def test_only_passes_are_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An optimiser out of memory has half of its state; on it no step is taken, and none a second time."""
    model = toy_model()
    config = RefineConfig(epochs=1, batch_size=32)
    loop = RefineLoop(model, model.parameters(), toy_split(75), toy_split(9), OBJECTIVE, config, seed=0, device=CPU)
    before = copy_of(model)
    tried: list[Tensor] = []

    def fail(given: Tensor, **named: Any) -> Tensor:
        tried.append(given)
        if len(tried) == 2:
            raise torch.OutOfMemoryError("no memory")
        return torch.full_like(given, 0.0, **named)

    monkeypatch.setattr(torch, "zeros_like", fail)
    with pytest.raises(torch.OutOfMemoryError):
        loop.step()
    assert (len(tried), loop.notes, loop.micro_batch) == (2, [], 32)
    assert same(copy_of(model), before)


@pytest.mark.parametrize("kind", [RuntimeError, torch.OutOfMemoryError])
def test_a_failing_compiler_is_told_and_done_without(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any, **named: Any) -> Any:
        raise kind("no C++ compiler")

    results = []
    for mode in ("off", "on"):
        model = toy_model(dropout=0.2)
        config = RefineConfig(epochs=1, dropout=0.2, compile=mode)
        monkeypatch.setattr(torch, "compile", fail)
        loop = RefineLoop(model, model.parameters(), toy_split(40), toy_split(9), OBJECTIVE, config, seed=0, device=CPU)
        results.append((loop.step().loss, loop.notes))
    assert results[0][0] == results[1][0]
    assert (results[0][1], results[1][1]) == ([], [f"not compiled ({kind.__name__})"])


def test_compiled_passes_are_used_for_their_size_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def watched(network: nn.Module, **named: Any) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            sizes.append(len(x))
            output: Tensor = network(x)
            return output

        return run

    monkeypatch.setattr(torch, "compile", watched)
    model = toy_model()
    config = RefineConfig(epochs=1, batch_size=16, compile="on")
    loop = RefineLoop(model, model.parameters(), toy_split(40), toy_split(9), OBJECTIVE, config, seed=0, device=CPU)
    loop.step()
    assert sizes == [16, 16, 16]  # the trial run, and two of three steps: the last one has 8 samples


def test_when_to_compile() -> None:
    cuda = torch.device("cuda")
    assert not compiling.wants_compile("auto", CPU, 10**6)
    assert not compiling.wants_compile("auto", cuda, 10)
    assert compiling.wants_compile("auto", cuda, 10**6)
    assert compiling.wants_compile("on", CPU, 1)
    with computing(1, deterministic=True):
        assert not compiling.wants_compile("on", cuda, 10**6)


def linear_layer_flops(model: nn.Module, tokens: int) -> int:
    return sum(2 * tokens * m.in_features * m.out_features for m in model.modules() if isinstance(m, nn.Linear))


def test_operations_of_a_sample(bert: str) -> None:
    """All trains: three times the forward pass, but the embedder's input needs no gradient; attention on top."""
    model = real_model(bert)
    cost = make_passes(model, real_split(9)).cost
    body = linear_layer_flops(model.body, 8)
    attention = 4 * 2 * 2 * 8 * 8 * 32  # layers, products, multiply-add, tokens, tokens, width
    assert cost.num_tokens == 8
    assert 3 * body < cost.flops < 3 * body + 4 * attention + 3 * (2 * 8 * 4 * 32 + 2 * 32 * 3) + 1
    for parameter in model.body.parameters():
        parameter.requires_grad_(False)
    model.embedder.requires_grad_(False)
    split = real_split(9)
    head = list(model.head.parameters())
    work = Passes(
        model, head, Feed(split.x, model, EXACT), split.y, OBJECTIVE.training_loss(split.y, CPU), RefineConfig(), seed=0
    )
    assert body < work.cost.flops < body + attention + 2 * 8 * 4 * 32 + 3 * 2 * 32 * 3 + 1


class Marked(torch.autograd.Function):
    """The identity; a mark lives as long as the graph that it is part of."""

    marks: ClassVar[list[weakref.ref[Any]]] = []

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark = set[int]()
        Marked.marks.append(weakref.ref(ctx.mark))
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def test_measuring_leaves_no_graph_behind() -> None:
    """A graph holds the weights; log-softmax saves its own output, and so could hold its graph for ever."""
    layer = nn.Linear(4, 3)

    def loss(num_samples: int) -> Tensor:
        marked: Tensor = Marked.apply(layer(torch.ones(num_samples, 4)))  # type: ignore[no-untyped-call]
        return torch.log_softmax(marked, dim=1)[:, 0].mean()

    Marked.marks.clear()
    measure(loss, list(layer.parameters()), layer, num_samples=2)
    gc.collect()
    assert [mark() for mark in Marked.marks] == [None, None]


def test_rates() -> None:
    cost = Cost(saved_bytes=1, largest_bytes=1, flops=10**9, num_tokens=64)
    rates = throughput(cost, 50, 2.0, EXACT)
    assert (rates.samples_per_second, rates.tokens_per_second) == (25.0, 1600.0)
    peak = peak_flops(EXACT)
    assert peak is not None
    assert 1e9 < peak < 1e14
    assert rates.model_flop_utilisation == pytest.approx(25e9 / peak)
    assert throughput(Cost(1, 1, 1, None), 50, 2.0, EXACT).tokens_per_second is None
    assert peak_flops(Precision("float32", torch.device("mps"))) is None


@pytest.mark.parametrize(
    ("name", "precision", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
        ("NVIDIA H100 PCIe", "bfloat16", 756e12),
        ("NVIDIA A100-SXM4-80GB", "float32", 19.5e12),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "float32", None),
        ("NVIDIA A10", "bfloat16", 125e12),
        ("NVIDIA A10G", "bfloat16", 70e12),
        ("NVIDIA H200 NVL", "bfloat16", 835e12),
        ("NVIDIA GH200 480GB", "bfloat16", 989e12),
        ("NVIDIA RTX A4000", "bfloat16", None),
        ("NVIDIA RTX A1000", "bfloat16", None),
        ("NVIDIA T400 4GB", "float32", None),
        ("NVIDIA GeForce RTX 4090", "tf32", 82.6e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "tf32", None),
        ("NVIDIA L40S", "tf32", 183e12),
        ("NVIDIA L4", "bfloat16", 121e12),
        ("Tesla V100-SXM2-16GB", "bfloat16", None),
        ("Some other card", "float32", None),
    ],
)
def test_peaks_by_name(name: str, precision: str, expected: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(Precision(precision, torch.device("cuda"))) == expected
    assert all(bf16 is None or bf16 >= fp32 for bf16, _, fp32 in PEAKS.values() if fp32 is not None)


def test_rates_survive_a_resume() -> None:
    config = RefineConfig(epochs=3)

    def loop() -> RefineLoop:
        model = toy_model()
        return RefineLoop(model, model.parameters(), toy_split(40), toy_split(9), OBJECTIVE, config, seed=0, device=CPU)

    first = loop()
    first.step()
    second = loop()
    second.load_state_dict(first.state_dict())
    assert second.throughput() == first.throughput()


def test_best_weights_of_a_loaded_state_are_not_overwritten() -> None:
    model = toy_model()
    config = RefineConfig(epochs=6, learning_rate=1e-2)
    loop = RefineLoop(
        model, model.parameters(), toy_split(75), toy_split(100, 1), OBJECTIVE, config, seed=0, device=CPU
    )
    loop.step()
    state = loop.state_dict()
    kept = {name: value.clone() for name, value in state["best"].items()}
    loop.load_state_dict(state)
    loop.best_score = float("inf")
    loop.step()
    assert same(kept, state["best"])


def invalid() -> Iterator[dict[str, str | int]]:
    yield {"precision": "float16"}
    yield {"memory_mib": -1}
    yield {"gradient_checkpointing": "yes"}
    yield {"compile": "always"}


@pytest.mark.parametrize("option", list(invalid()), ids=lambda option: "-".join(map(str, option)))
def test_bad_options_are_refused_by_name(option: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"refine.{next(iter(option))}"):
        RefineConfig(**option)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("samples", [ResidentSamples, StreamedSamples])
def test_rows_reach_the_device(samples: type[ResidentSamples] | type[StreamedSamples]) -> None:
    split = toy_split(20)
    device = torch.device("cuda")
    joined = JoinedRows(split.x[:5], split.x[5:])
    arrays: Sequence[Rows] = [split.x[:], split.y, joined]
    for part, (x, y, same_x) in zip(PARTS, samples(arrays, device).batches(PARTS), strict=True):
        np.testing.assert_array_equal(x.cpu().numpy(), split.x[part])
        np.testing.assert_array_equal(y.cpu().numpy(), split.y[part])
        assert torch.equal(x, same_x)
        assert x.device.type == "cuda"
    assert isinstance(make_samples(arrays, device), ResidentSamples)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_composite_rows_are_put_together_in_parts(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (np.random.RandomState(seed).normal(size=(7, 2, 3)).astype(np.float32) for seed in (0, 1))
    joined = JoinedRows(first, second)
    monkeypatch.setattr("orca_ray.training.samples.row_slices", lambda rows: row_slices(rows, 4 * first[0].nbytes))
    together = put_together(joined, torch.device(device))
    assert together.device.type == device
    np.testing.assert_array_equal(together.cpu().numpy(), np.concatenate([first, second]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_refining_on_the_device_follows_the_cpu() -> None:
    losses = []
    for device in (CPU, torch.device("cuda")):
        model = toy_model().to(device)
        config = RefineConfig(epochs=2, precision="float32")
        objective = Objective(OBJECTIVE.target, OBJECTIVE.loss, OBJECTIVE.metric)
        loop = RefineLoop(
            model, model.parameters(), toy_split(75), toy_split(20), objective, config, seed=0, device=device
        )
        losses.append([loop.step().loss for _ in range(2)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
