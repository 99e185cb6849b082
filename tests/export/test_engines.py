"""Every engine gives the results of PyTorch, for every task, from any thread, with a cache that can break."""

import threading

import pytest
import timm
import torch

import van
from van.engine.engines import ENGINES, FORMATS, engine_class
from van.engine.options import EngineName
from van.errors import VanError
from van.export.engines import cache, runtime
from van.export.engines.base import Source

SMALL = {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2), "num_classes": 7}
CPU = torch.device("cpu")
BOUNDS = {"float32": 1e-5, "bfloat16": 3e-2}
RUNTIMES = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _two_cores(shared_cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared_cache))  # networks are converted once
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def network(**options):
    torch.manual_seed(0)
    return van.create_model("van_b0", **(SMALL | options)).eval()


def tiny(num_classes=7):
    """Return a network that is converted in a moment, for what does not depend on the network."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 64, 3, 2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(64, num_classes)).eval()


def images(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def engine(name, source=None, precision=None):
    return engine_class(name)(source or Source(network()), precision, CPU)


def difference(ours, theirs):
    return (ours - theirs).abs().max().item() / theirs.abs().max().item()


def expected(model, x):
    with torch.no_grad():
        return model(x)


def bfloat16_here():
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


CASES = [("torch", "float32"), ("torch", "bfloat16"), ("onnxruntime", "float32"), ("openvino", "float32")]
CASES += [("openvino", "bfloat16"), ("auto", "float32")]
# exporting a VAN takes too long for every run
VANS = [pytest.param(network, *case, marks=() if case[0] == "torch" else pytest.mark.slow) for case in CASES]


@pytest.mark.parametrize(("build", "name", "precision"), [*((tiny, *case) for case in CASES), *VANS])
def test_engine_agrees_with_pytorch_at_any_size(build, name, precision):
    if (name, precision) == ("openvino", "bfloat16") and not bfloat16_here():
        pytest.skip("this processor has no bfloat16")
    model = build()
    ours = engine(name, Source(model), precision)
    for shape in ((5, 3, 64, 96), (1, 3, 96, 33), (2, 3, 64, 64)):
        x = images(*shape).to(memory_format=torch.channels_last)
        logits = ours(x)
        assert logits.dtype == torch.float32
        assert not logits.requires_grad
        assert difference(logits, expected(model, x)) < BOUNDS[precision]
    x = images(5, 3, 64, 96)
    before = ours(x)
    kept = before.clone()
    ours.prepare(x)  # another plan, the same numbers
    assert difference(ours(x), before) < BOUNDS[precision]
    assert torch.equal(before, kept)  # outputs are no views of the engine's memory


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_compiled_engine_agrees_with_pytorch(precision):
    model, ours, x = network(), engine("compiled", precision=precision), images(2, 3, 64, 64)
    assert difference(ours(x), expected(model, x)) < BOUNDS[precision]


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_plan_gives_the_same(name):
    model = tiny()
    ours, x = engine(name, Source(model)), images(7, 3, 64, 64)
    arrays = [x.numpy()]
    for plan in {*ours._candidates(arrays), runtime.Plan(4, 2, ours.fixes_shapes), runtime.Plan(2, 1)}:
        [logits] = ours._run(arrays, plan)
        assert difference(torch.from_numpy(logits), expected(model, x)) < 1e-5


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_shape_that_comes_often_gets_a_plan_that_the_next_process_knows(name, monkeypatch):
    monkeypatch.setattr(runtime, "_WORTHWHILE", 3)
    source, x = Source(tiny()), images(4, 3, 40, 32)
    first = engine(name, source)
    answers = [first(x) for _ in range(5)]
    assert all(difference(answer, answers[0]) < 1e-5 for answer in answers)
    plan = first._plan([x.numpy()])
    assert plan is not None
    monkeypatch.setattr(runtime.RuntimeEngine, "_measured", lambda *args: pytest.fail("measured again"))
    assert engine(name, Source(tiny()))._plan([x.numpy()]) == plan
    assert engine(name, Source(tiny(num_classes=3)))._plan([x.numpy()]) is None  # other weights


@pytest.mark.parametrize("name", RUNTIMES)
def test_threads_get_their_own_results(name):
    model = tiny()
    ours = engine(name, Source(model))
    batches = [images(batch, 3, 64, 64, seed=i) for i, batch in enumerate((1, 5, 3, 1, 8, 2))]
    wanted = [expected(model, x) for x in batches]
    wrong = []

    def run(i):
        for _ in range(8):
            if not difference(ours(batches[i]), wanted[i]) < 1e-5:
                wrong.append(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def entries():
    return [path for path in cache.cache_folder().iterdir() if (path / "SHA256SUMS").exists()]


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_second_start_takes_the_converted_network_from_the_cache(name, empty_cache, monkeypatch):
    torch.manual_seed(0)
    model, x = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.ReLU()).eval(), images(2, 3, 64, 64)
    before = engine(name, Source(model))(x)
    with monkeypatch.context() as patch:
        patch.setattr(torch.export, "export", lambda *args, **kwargs: pytest.fail("exported again"))
        patch.setattr(torch.onnx, "export", lambda *args, **kwargs: pytest.fail("exported again"))
        assert torch.equal(engine(name, Source(model))(x), before)
    [folder] = entries()
    largest = max(folder.iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 255
    largest.write_bytes(content)
    assert torch.equal(engine(name, Source(model))(x), before)  # made again
    assert largest.read_bytes() != content


def test_cache_without_a_place_to_write_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    model, x = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval(), images(2, 3, 64, 64)
    for name in RUNTIMES:
        assert difference(engine(name, Source(model))(x), expected(model, x)) < 1e-5


def test_two_writers_leave_one_whole_entry_and_old_entries_go(empty_cache, monkeypatch):
    def write(folder):
        (folder / "a").write_text("a" * 100)
        if not (cache.cache_folder() / "key").exists():
            cache.store("key", lambda other: (other / "a").write_text("a" * 100))

    assert (cache.store("key", write) / "a").read_text() == "a" * 100
    assert [path.name for path in cache.cache_folder().iterdir()] == ["key"]
    monkeypatch.setattr(cache, "LARGEST", 250)
    cache.store("new", lambda folder: (folder / "a").write_text("a" * 100))
    assert [path.name for path in entries()] == ["new"]


def test_auto_names_and_remembers_the_fastest(monkeypatch):
    x = images(2, 3, 64, 72)
    first = engine("auto", Source(tiny()))
    assert str(first) == "auto, float32"
    first(x)
    assert str(first) in {f"auto ({name}), float32" for name in ("torch", *RUNTIMES)}
    monkeypatch.setattr(engine_class("auto"), "_fastest", lambda *args: pytest.fail("measured again"))
    second = engine("auto", Source(tiny()))
    second(x)
    assert str(second) == str(first)


def test_other_networks_than_van():
    torch.manual_seed(0)
    model, x = timm.create_model("test_resnet", num_classes=5).eval(), images(3, 3, 64, 64)
    assert difference(engine("openvino", Source(model))(x), expected(model, x)) < 1e-5


def test_what_an_engine_cannot_do_is_refused_in_a_sentence(monkeypatch, tmp_path):
    with pytest.raises(VanError, match=r"no engine 'openvin', expected one of torch.*Did you mean openvino"):
        engine_class("openvin")
    with pytest.raises(VanError, match="precision is 'int8', expected one of float32, bfloat16, float16"):
        engine("openvino", precision="int8")
    with pytest.raises(VanError, match="onnxruntime computes in float32 on CPUs, not in bfloat16"):
        engine("onnxruntime", precision="bfloat16")
    for name in ("torch", "compiled", "openvino"):
        with pytest.raises(VanError, match="float16 needs a GPU"):
            engine(name, precision="float16")
    with pytest.raises(VanError, match="openvino computes on cpu, not on meta"):
        engine_class("openvino")(Source(network()), None, torch.device("meta"))
    with pytest.raises(VanError, match="training mode"):
        Source(network().train())
    with pytest.raises(VanError, match=r"weights are torch\.bfloat16, expected torch\.float32"):
        Source(network().bfloat16())
    with pytest.raises(VanError, match=r"openvino does not run \.pt2 files.*--engine torch"):
        engine("openvino", Source(network(), file=tmp_path / "a.pt2"))
    for name in RUNTIMES:
        (tmp_path / "broken.onnx").write_bytes(b"nothing")
        with pytest.raises(VanError, match=r"broken\.onnx cannot be read.*Export it again"):
            engine(name, Source(network(), file=tmp_path / "broken.onnx"))
        monkeypatch.setitem(__import__("sys").modules, name, None)
        with pytest.raises(VanError, match=rf"{name} is missing.*pip install 'visual-attention-network\[export\]'"):
            engine(name)


def test_registry_and_options_have_the_same_names():
    assert set(ENGINES) == set(EngineName.__args__)
    assert set(FORMATS.values()) <= set(ENGINES)
    assert all(engine_class(name).name == name for name in ENGINES)
    assert all(suffix in engine_class(name).formats for suffix, name in FORMATS.items())
