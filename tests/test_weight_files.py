"""Which folders hold weights that may be read."""

import pytest

from electra_kernels.errors import UserError
from electra_kernels.weight_files import has_weights


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json"])
def test_safetensors_are_weights_also_beside_a_pickle(name, tmp_path):
    assert not has_weights(tmp_path)
    for file in (name, "pytorch_model.bin"):
        (tmp_path / file).touch()
    assert has_weights(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json"])
def test_a_pickle_alone_is_refused_with_a_way_out(name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=f"are the pickle {name}, .* write it with save_pretrained"):
        has_weights(tmp_path)
