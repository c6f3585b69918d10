"""Videos without a video model: refusals, parameters into C and frames out of it.

What a real model makes of the parameters is tested in test_video_model.py.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cffi
import numpy as np
import numpy.typing as npt
import pytest
from engine_defaults import VIDEO
from model_headers import ALONE, LLM, read
from tiny_model import TinyModel

from sdcffi import (
    Cache,
    Engine,
    GenerationError,
    Guidance,
    Lora,
    Record,
    SampleParams,
    SDError,
    SkipLayerGuidance,
    Tiling,
    VideoParams,
    VideoResult,
    replay,
)
from sdcffi._bindings.library import Library, load
from sdcffi._checks.inputs import take_video_images
from sdcffi._checks.video import check_video
from sdcffi._models.files import Model

Pixels = npt.NDArray[np.uint8]
WAN = {"blocks.0.cross_attn.norm_k.weight": (2,)}
I2V = {**WAN, "patch_embedding.weight": (5120 * 36, 1, 2, 2)}
WAN21_I2V = {**WAN, "img_emb.proj.0.weight": (4,)}
TI2V = {**WAN, "patch_embedding.weight": (3072 * 48, 1, 2, 2)}
VACE = {**WAN, "vace_blocks.0.norm3.weight": (2,)}
VISION = {"vision_model.post_layernorm.weight": (4,)}
FLUX = {"double_blocks.0.img_attn.qkv.weight": (24, 8), "img_in.weight": (8, 64)}
SVD = {"model.diffusion_model.input_blocks.8.0.time_mixer.mix_factor": (1,)}


def picture(height: int = 512, width: int = 512, value: int = 0) -> Pixels:
    return np.full((height, width, 3), value, np.uint8)


# Refusals


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    files = {"t5xxl": LLM, "vae": ALONE}
    kinds: dict[str, dict[str, Any]] = {
        "t2v": {"diffusion_model": WAN, **files},
        "i2v": {"diffusion_model": I2V, "high_noise_diffusion_model": I2V, **files},
        "i2v21": {"diffusion_model": WAN21_I2V, "clip_vision": VISION, **files},
        "ti2v": {"diffusion_model": TI2V, **files},
        "vace": {"diffusion_model": VACE, **files},
        "flux": {"diffusion_model": FLUX, "clip_l": LLM, **files},
        "svd": {"model": SVD, "vae": ALONE},
    }
    return {name: read(tmp_path_factory.mktemp(name), **slots) for name, slots in kinds.items()} | {"unknown": Model()}


def high_noise(**fields: Any) -> VideoParams:
    return VideoParams(high_noise_sample_params=SampleParams(**fields))


REFUSED: list[tuple[str, VideoParams, type[Exception], str]] = [
    ("flux", VideoParams(), ValueError, r"FLUX\.1 generates images only: use generate"),
    ("svd", VideoParams(), ValueError, "generates no videos with Stable Video Diffusion: load"),
    ("t2v", VideoParams(video_frames=0), ValueError, "video_frames must be from 1 to 10000, not 0"),
    ("t2v", VideoParams(video_frames=-3), ValueError, "not -3"),
    ("t2v", VideoParams(width=0), ValueError, "width must be from 1 to 16384, not 0"),
    ("t2v", VideoParams(prompt="a\0b"), ValueError, "must not contain a NUL"),
    ("vace", VideoParams(vace_strength=math.nan), ValueError, "vace_strength must be finite, not nan"),
    ("i2v", VideoParams(moe_boundary=math.inf), ValueError, "moe_boundary must be finite, not inf"),
    ("i2v", VideoParams(moe_boundary=2), ValueError, "moe_boundary must be from 0 to 1, not 2"),
    ("t2v", VideoParams(moe_boundary=0.9), ValueError, "moe_boundary needs a high-noise model: pass high_noise"),
    ("t2v", high_noise(sample_steps=2), ValueError, r"high_noise\.sample_steps needs a high-noise model"),
    ("t2v", VideoParams(loras=[Lora("a.gguf", 1, True)]), ValueError, r"LoRA a\.gguf with is_high_noise needs"),
    ("i2v", high_noise(sample_steps=-2), ValueError, r"high_noise_steps must be from -1 to 10000 \(-1: moe_boundary"),
    ("i2v", high_noise(guidance=Guidance(txt_cfg=math.nan)), ValueError, "high_noise_cfg_scale must be finite"),
    ("i2v", high_noise(eta=-1), ValueError, "high_noise_eta must be at least|high_noise_eta must be from 0"),
    (
        "i2v",
        high_noise(scheduler="karras"),
        ValueError,
        r"high_noise\.scheduler is ignored by the engine; legal are",
    ),
    ("t2v", VideoParams(sample_params=SampleParams(sample_steps=0)), ValueError, "steps must be from 1"),
    ("t2v", VideoParams(sample_params=SampleParams(flow_shift=math.nan)), ValueError, "flow_shift must be finite"),
    ("t2v", VideoParams(vae_tiling_params=Tiling(tile_size_x=-1)), ValueError, "tile_size_x must be"),
    ("t2v", VideoParams(init_image=picture()), ValueError, "Wan does not read init_image; its input images are: none"),
    (
        "ti2v",
        VideoParams(end_image=picture()),
        ValueError,
        r"Wan 2\.2 TI2V does not read .*: init_image",
    ),
    ("vace", VideoParams(end_image=picture()), ValueError, "its input images are: init_image, control_frames"),
    ("i2v", VideoParams(control_frames=[picture()]), ValueError, r"Wan 2\.2 I2V does not read control_frames"),
    ("i2v21", VideoParams(control_frames=[picture()]), ValueError, r"Wan 2\.1 I2V does not read control_frames"),
    (
        "i2v",
        VideoParams(end_image=picture(256), width=512, height=512),
        ValueError,
        "end_image is 512x256 pixels.*pass resize=",
    ),
    ("vace", VideoParams(control_frames=[picture(), picture(4)]), ValueError, r"control_frames\[1\] is 512x4"),
    ("vace", VideoParams(control_frames="ab"), TypeError, "control_frames must be a sequence"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(
    ("resize", "size"),
    [("stretch", (64, 64)), ("crop", (64, 64)), ("pad", (64, 64)), ("fit", (64, 32))],
)
def test_pictures_are_brought_to_the_videos_size(resize: Any, size: tuple[int, int], models: dict[str, Model]) -> None:
    given = VideoParams(init_image=picture(40, 80), control_frames=[picture(90, 90)], width=64, height=64)
    taken = take_video_images(given, models["vace"], resize)
    assert (taken.width, taken.height) == size
    assert taken.init_image.shape == taken.control_frames[0].shape == (size[1], size[0], 3)  # type: ignore[index, union-attr]


def test_a_video_without_a_size_has_its_first_pictures(models: dict[str, Model]) -> None:
    taken = take_video_images(VideoParams(init_image=picture(32, 48)), models["i2v"])
    assert (taken.width, taken.height) == (48, 32)


@pytest.mark.parametrize(("kind", "params", "error", "message"), REFUSED, ids=[row[3][:40] for row in REFUSED])
def test_a_bad_call_is_refused_with_the_legal_set(
    kind: str, params: VideoParams, error: type[Exception], message: str, models: dict[str, Model]
) -> None:
    with pytest.raises(error, match=message):
        check_video(params, models[kind], VIDEO)


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("t2v", VideoParams()),
        ("t2v", VideoParams(video_frames=1)),
        ("t2v", VideoParams(video_frames=81, width=832, height=480)),
        ("i2v", VideoParams(init_image=picture(), end_image=picture(), moe_boundary=0.5)),
        ("i2v", VideoParams(end_image=picture())),
        ("i2v", high_noise(sample_steps=0, sample_method="heun", eta=0.5, guidance=Guidance(txt_cfg=1))),
        ("i2v21", VideoParams(init_image=picture(), end_image=picture())),
        ("ti2v", VideoParams(init_image=picture())),
        ("vace", VideoParams(init_image=picture(), control_frames=[picture(), picture()], vace_strength=0.5)),
        ("unknown", VideoParams(init_image=picture(), control_frames=[picture()], moe_boundary=1)),
    ],
)
def test_a_call_that_the_model_can_do_passes_as_it_is(kind: str, params: VideoParams, models: dict[str, Model]) -> None:
    assert check_video(params, models[kind], VIDEO).given().keys() >= params.given().keys()


@pytest.mark.parametrize(
    ("kind", "params", "message"),
    [
        ("t2v", VideoParams(video_frames=6), "the result will have 5 frames, not 6; pass video_frames=5"),
        ("t2v", VideoParams(video_frames=4), "will have 1 frames, not 4"),
        ("t2v", VideoParams(width=500), "Wan generates sizes in multiples of 16 pixels, .* 512x512"),
        ("ti2v", VideoParams(width=528), "in multiples of 32 pixels, .* 544x512"),
    ],
)
def test_what_the_engine_rounds_is_told(kind: str, params: VideoParams, message: str, models: dict[str, Model]) -> None:
    with pytest.warns(UserWarning, match=message):
        check_video(params, models[kind], VIDEO)


def test_pictures_need_an_encoder(models: dict[str, Model], tmp_path: Path) -> None:
    decoder = {"decoder.conv_in.weight": (4, 3, 3, 3), "decoder.conv_out.weight": (4, 3, 3, 3)}
    model = read(tmp_path, diffusion_model=VACE, t5xxl=LLM, vae=decoder)
    with pytest.raises(ValueError, match="init_image needs an autoencoder with an encoder"):
        check_video(VideoParams(init_image=picture()), model, VIDEO)


def test_the_vision_encoder_of_an_image_to_video_model_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Wan 2\.1 I2V; it also needs clip_vision="):
        read(tmp_path, diffusion_model=WAN21_I2V, t5xxl=LLM, vae=ALONE)


# Into C and out of it


class Stub:
    """Takes the place of one native function: keeps what of the struct is looked at, and gives three frames."""

    def __init__(self, library: Library) -> None:
        ffi = library.ffi
        of_c = cffi.FFI()  # declarations of their own: the library's are the process's
        of_c.cdef("void *malloc(size_t);")
        libc = of_c.dlopen(None)

        def memory(kind: str, size: int) -> Any:
            return ffi.cast(kind, int(of_c.cast("uintptr_t", libc.malloc(size))))

        self.seen: dict[str, Any] = {}
        self.look: Callable[[Any], dict[str, Any]] = lambda params: {}

        def generate(_context: Any, params: Any, frames: Any, count: Any, _error: Any) -> int:
            self.seen = self.look(params)
            frames[0] = memory("sd_image_t *", 3 * ffi.sizeof("sd_image_t"))
            for index in range(3):
                frame = frames[0][index]
                frame.width, frame.height, frame.channel = 4, 2, 3
                frame.data = memory("uint8_t *", 24)
                ffi.memmove(frame.data, bytes([index]) * 24, 24)
            count[0] = 3
            return 0

        self.function = generate


class Replaced:
    """A library's functions, one of them replaced."""

    def __init__(self, lib: Any, **functions: Any) -> None:
        self._lib = lib
        self.__dict__.update(functions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lib, name)


@pytest.fixture(scope="module")
def in_process(tiny_model: TinyModel) -> Iterator[Engine]:
    """An engine on a model of pictures that passes for one of an unknown kind."""
    with Engine(**tiny_model.engine_arguments(), threads=1, backend="cpu", isolated=False) as engine:
        engine._model = Model()
        yield engine


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    library = load()
    stub = Stub(library)
    monkeypatch.setattr(library, "lib", Replaced(library.lib, sdg_generate_video=stub.function))
    return stub


def test_every_keyword_arrives_and_the_frames_come_back(in_process: Engine, stub: Stub, tiny_model: TinyModel) -> None:
    frames = [picture(64, 64, value) for value in (1, 2)]

    def look(params: Any) -> dict[str, Any]:
        names = ("width", "height", "video_frames", "seed", "control_frames_size", "lora_count")
        sample, high = params.sample_params, params.high_noise_sample_params
        return {
            **{name: getattr(params, name) for name in names},
            "prompts": (load().text(params.prompt), load().text(params.negative_prompt)),
            "numbers": [round(value, 4) for value in (params.moe_boundary, params.vace_strength, sample.flow_shift)],
            "low": (sample.sample_steps, sample.guidance.txt_cfg, sample.guidance.distilled_guidance, sample.eta),
            "names": (sample.sample_method, sample.scheduler, high.sample_method),
            "high": (high.sample_steps, high.guidance.txt_cfg, high.eta),
            "pixels": [params.control_frames[1].data[0], params.init_image.data[0], params.end_image.data[0]],
            "parts": (params.vae_tiling_params.tile_size_x, params.cache.mode, sample.guidance.slg.layers[0]),
        }

    stub.look = look
    result = in_process.generate_video(
        "a cat",
        negative_prompt="a dog",
        width=64,
        height=64,
        video_frames=9,
        fps=24,
        steps=3,
        cfg_scale=2,
        guidance=4,
        sampler="heun",
        scheduler="simple",
        eta=0.5,
        flow_shift=6,
        seed=11,
        init_image=picture(64, 64, 7),
        end_image=picture(64, 64, 8),
        control_frames=frames,
        vace_strength=0.25,
        high_noise=SampleParams(eta=0.75, sample_steps=9),
        high_noise_steps=5,
        high_noise_cfg_scale=1.5,
        high_noise_sampler="lcm",
        moe_boundary=0.5,
        tiling=Tiling(tile_size_x=4),
        cache=Cache(mode="easycache"),
        slg=SkipLayerGuidance(layers=[3]),
        params=VideoParams(width=16, clip_skip=2),
    )
    sampler = load().enum(load().ffi.typeof("enum sample_method_t"))
    scheduler = load().enum(load().ffi.typeof("enum scheduler_t"))
    assert stub.seen == {
        **{"width": 64, "height": 64, "video_frames": 9, "seed": 11, "control_frames_size": 2, "lora_count": 0},
        "prompts": ("a cat", "a dog"),
        "numbers": [0.5, 0.25, 6],
        "low": (3, 2, 4, 0.5),
        "names": (sampler["heun"], scheduler["simple"], sampler["lcm"]),
        "high": (5, 1.5, 0.75),
        "pixels": [2, 7, 8],
        "parts": (4, 1, 3),
    }
    assert [array.shape for array in result.arrays] == [(2, 4, 3)] * 3
    assert [int(array.mean()) for array in result.arrays] == [0, 1, 2]
    assert (result.fps, result.seed, result.parameters.seed, result.loras) == (24, 11, 11, ())
    assert [frame.getpixel((0, 0)) for frame in result.frames] == [(value,) * 3 for value in range(3)]


def test_what_is_not_set_keeps_the_native_default_and_a_seed_is_drawn(in_process: Engine, stub: Stub) -> None:
    stub.look = lambda params: (
        {name: getattr(params, name) for name in ("width", "video_frames", "vace_strength", "seed")}
        | {"steps": params.high_noise_sample_params.sample_steps, "frame": bool(params.init_image.data)}
    )
    result = in_process.generate_video("a cat")
    seed = stub.seen.pop("seed")
    assert stub.seen == {"width": 512, "video_frames": 6, "vace_strength": 1, "steps": -1, "frame": False}
    assert 0 <= seed == result.seed == result.parameters.seed
    assert in_process.generate_video("a cat", seed=-1).seed != seed


def test_a_coroutine_gives_the_same(in_process: Engine, stub: Stub) -> None:
    async def both() -> tuple[VideoResult, list[Any]]:
        return await in_process.agenerate_video("a cat", seed=1), [
            event async for event in in_process.stream_video("a cat", seed=1)
        ]

    result, events = asyncio.run(both())
    assert len(result.arrays) == len(events[-1].arrays) == 3


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"prompt": None}, TypeError, "prompt must be a string"),
        ({"fps": 0}, ValueError, "fps must be above 0, not 0"),
        ({"fps": None}, TypeError, "fps must be a number, not None"),
        ({"fps": math.nan}, ValueError, "fps must be finite"),
        ({"control_frames": b"a"}, TypeError, "control_frames must be a sequence of images"),
        ({"control_frames": [picture(), 3]}, TypeError, r"control_frames\[1\] must be an array"),
        ({"seed": 1 << 63}, ValueError, "seed must be at most"),
        ({"preview": "proj"}, ValueError, "needs on_preview"),
        ({"sampler": "no"}, ValueError, "sampler must be one of"),
        ({"prompt": "a <lora:x:1>"}, SDError, "but lora_dir is not set"),
    ],
)
def test_a_keyword_that_does_not_fit_is_refused(
    keywords: dict[str, Any], error: type[Exception], message: str, in_process: Engine, stub: Stub
) -> None:
    with pytest.raises(error, match=message):
        in_process.generate_video(**{"prompt": "a cat", **keywords})
    assert not stub.seen


def test_a_model_of_pictures_makes_no_videos(
    isolated: bool, shared: Engine, in_process: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python refuses it, and behind Python the guard; the engine itself would abort."""
    engine = shared if isolated else in_process
    if isolated:
        with pytest.raises(ValueError, match=r"FLUX\.2 generates images only"):
            engine.generate_video("a cat")
        monkeypatch.setattr(engine, "_model", Model())
    with pytest.raises(GenerationError, match="the model makes no videos"):
        engine.generate_video("a cat", width=64, height=64)
    assert engine.generate("a cat", width=64, height=64, steps=1, cfg_scale=1.0).arrays


# What files tell


@pytest.mark.parametrize(("name", "files"), [("a.webp", 1), ("a_{index}.png", 3), ("a.gif", 1), ("a.mp4", 1)])
def test_a_videos_file_tells_what_made_it(
    name: str, files: int, in_process: Engine, stub: Stub, tmp_path: Path
) -> None:
    result = in_process.generate_video("a cat", seed=5, video_frames=9, init_image=picture(64, 64), steps=2)
    paths = result.save(tmp_path / name)
    assert len(paths) == files
    if name.endswith((".gif", ".mp4")):
        return  # they hold no record; `record` still tells
    for index, path in enumerate(paths):
        record = Record.from_file(path)
        assert record == result.record(index)
        assert (record.kind, record.seed, record.index, record.images[0].role) == ("video", 5, index, "init_image")
        assert record.whole.video_frames == 9
        assert "Steps: 2" in record.infotext()


def test_a_video_is_replayed_from_one_of_its_frames(
    in_process: Engine, stub: Stub, tmp_path: Path, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = in_process.generate_video("a cat", seed=5, end_image=picture(64, 64)).save(tmp_path / "a_{index}.png")
    monkeypatch.setattr("sdcffi.engine.engine.check_video", lambda params, *_: params)
    keywords = {"models": tiny_model.diffusion_model.parent, "isolated": False}
    again = replay(paths[1], end_image=picture(64, 64), **keywords)
    assert (again.max_difference, again.differences) == (0, ())
    assert again.array.tolist() == [[[1] * 3] * 4] * 2
    assert isinstance(again.result, VideoResult)
    with pytest.raises(ValueError, match="give end_image"):
        replay(paths[1], **keywords)
