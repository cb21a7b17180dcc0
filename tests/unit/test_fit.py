"""Estimates from a model's tag: its weights, and the memory and disk it needs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.settings import DEFAULT_MODEL, DEFAULT_TYPE, MODEL_RE
from functions import fit

GB = 1e9


@pytest.mark.parametrize(
    ("model", "gigabytes"),
    [
        ("granite3.1-dense:8b", 4.9),  # 5.0 in Ollama's library
        ("llama3.2:1b", 0.61),
        ("llama3.1:70b", 42.9),  # 43 in Ollama's library
        ("llama3.1:8b-instruct-q8_0", 8.5),  # 8.5 in Ollama's library
        ("llama3.1:8b-instruct-fp16", 16.0),  # 16 in Ollama's library
        ("qwen2.5:0.5b", 0.31),
        ("qwen3:30b-a3b", 18.4),
        ("smollm2:135m", 0.083),
        ("mixtral:8x7b", 34.3),
        ("deepseek-r1:671b", 411),
        ("hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M", 0.61),
        ("hf.co/x/Some-3B-GGUF:IQ2_XXS", 1.1),
        ("gemma2-27b", 16.5),
    ],
)
def test_the_weights_are_estimated_from_parameters_and_quantisation(model: str, gigabytes: float) -> None:
    estimated = fit.weights_bytes(model)
    assert estimated
    assert estimated / GB == pytest.approx(gigabytes, rel=0.1)


@pytest.mark.parametrize("model", ["llama3.2", "llama3.2:latest", "phi3:mini", "llama3.1", "gemma3n:e4b", "my-8bit"])
def test_a_tag_that_does_not_tell_the_size_is_unknown(model: str) -> None:
    assert fit.weights_bytes(model) is None
    assert fit.memory_bytes(model) is None


def test_memory_is_the_weights_and_their_context_and_the_system() -> None:
    weights = fit.weights_bytes("llama3.1:70b")
    memory = fit.memory_bytes("llama3.1:70b")
    assert weights
    assert memory
    assert memory == pytest.approx(weights * 1.1 + fit.GIB, abs=1)


def test_the_default_model_does_not_fit_the_default_type_and_fits_the_next() -> None:
    needed = fit.memory_bytes(DEFAULT_MODEL)
    assert needed
    assert 4 * fit.GIB < needed < 8 * fit.GIB
    assert DEFAULT_TYPE == "standard.medium"


@pytest.mark.parametrize(("model", "gib"), [("llama3.2:1b", 11), ("granite3.1-dense:8b", 15), ("llama3.2", 10)])
def test_the_disk_holds_system_image_and_model(model: str, gib: int) -> None:
    assert fit.disk_gib(model) == gib


def test_a_graphics_cards_driver_needs_disk_as_well() -> None:
    assert fit.disk_gib("llama3.2:1b", gpu=True) == fit.disk_gib("llama3.2:1b") + fit.GPU_GIB


@given(st.from_regex(MODEL_RE, fullmatch=True).filter(lambda name: len(name) < 120))
def test_any_model_name_has_an_estimate_or_none(model: str) -> None:
    memory = fit.memory_bytes(model)
    assert memory is None or memory > fit.SYSTEM_BYTES - 1
    assert fit.disk_gib(model) >= fit.IMAGE_GIB


@given(st.integers(1, 900), st.integers(1, 900))
def test_more_parameters_never_need_less(a: int, b: int) -> None:
    small, large = sorted((a, b))
    assert (fit.memory_bytes(f"m:{small}b") or 0) <= (fit.memory_bytes(f"m:{large}b") or 0)
