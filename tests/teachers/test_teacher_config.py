"""What a user writes about a teacher: understood, or refused in a line that says what would do."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import tyro
from safetensors.torch import save_file
from timm.models import regnet
from torch import Tensor

from teachers import Head, Teacher


def refused(teacher: Teacher, *, by_shapes: bool = True) -> str:
    """The message of the refusal, one line, the same whether shapes or the module are asked for."""
    messages = set()
    for ask in (Teacher.shapes, Teacher.build) if by_shapes else (Teacher.build,):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (the tests read the message)
            ask(teacher)
        messages.add(str(caught.value))
    assert len(messages) == 1
    message = messages.pop()
    assert "\n" not in message
    return message


def resnet_state(classes: int = 1000) -> dict[str, Tensor]:
    return timm.create_model("test_resnet", num_classes=classes).state_dict()


def test_a_model_that_reads_numbers_while_it_is_built_has_shapes_where_tensors_have_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generate = regnet.generate_regnet

    def as_timm_1_0_26_does(*given: Any, **named: Any) -> Any:
        assert torch.arange(3).max().item() == 2
        return generate(*given, **named)

    monkeypatch.setattr(regnet, "generate_regnet", as_timm_1_0_26_does)
    with torch.device("meta"):
        assert Teacher(name="regnetx_002").shapes().embedding == 368  # its last width in the paper


def test_unknown_names_name_the_nearest() -> None:
    assert "did you mean" in refused(Teacher(name="resnet5O"))
    assert "resnet50" in refused(Teacher(name="resnet5O"))
    assert "resnet50.a1_in1k" in refused(Teacher(name="resnet50.a1_1k"))
    assert "timm.list_models" in refused(Teacher(name="xyzzy:plugh"))


def test_missing_files_are_named(tmp_path: Path) -> None:
    gone, empty = tmp_path / "gone", tmp_path / "empty"
    empty.mkdir()
    assert f"{gone} does not exist" in refused(Teacher(name=f"local-dir:{gone}"))
    assert f"{empty} has no config.json" in refused(Teacher(name=str(empty)))
    assert f"no checkpoint file {gone}" in refused(Teacher(name="test_resnet", checkpoint=str(gone)))


def test_a_folder_without_weights_or_with_a_broken_config(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"architecture": "test_resnet", "pretrained_cfg": {}}))
    assert "give a weights file" in refused(Teacher(name=str(tmp_path)), by_shapes=False)
    config.write_text("{")
    assert "cannot be built" in refused(Teacher(name=str(tmp_path)))


def test_bad_sizes() -> None:
    assert "must be 1 px or more" in refused(Teacher(name="test_resnet", img_size=0))
    assert "multiple of its patches of 16x16 px" in refused(Teacher(name="test_vit", img_size=(96, 100)))
    assert "cannot take images of 4x4 px" in refused(Teacher(name="test_convnext", img_size=4))


def test_a_layer_that_is_not_there() -> None:
    teacher = Teacher(name="test_resnet")
    with pytest.raises(ValueError, match="no layer 5; it has 5 layers"):
        teacher.build(layers=[5])
    with pytest.raises(ValueError, match="no layer 5; it has 5 layers"):
        teacher.build(pretrained=False)(torch.rand(1, 3, 64, 64), [5])


def test_a_head_of_another_teacher() -> None:
    head = Head(torch.zeros(10, 7), torch.zeros(10), l2=1, heldout_top1=0, heldout_nll=0)
    with pytest.raises(ValueError, match="takes embeddings of 7 numbers but 'test_resnet' gives 96; fit a head"):
        Teacher(name="test_resnet").build(head=head, pretrained=False)


@pytest.mark.parametrize("nest", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
def test_checkpoints_are_unwrapped(tmp_path: Path, nest) -> None:
    state, file = resnet_state(), tmp_path / "best.pth"
    torch.save(nest({f"module.{key}": value for key, value in state.items()}), file)
    teacher = Teacher(name="test_resnet", checkpoint=str(file))
    assert teacher.weights_source() == f"checkpoint {file}"
    torch.testing.assert_close(dict(teacher.build().model.state_dict()), dict(state), atol=0, rtol=0)


def test_averaged_weights_come_before_the_plain_ones(tmp_path: Path) -> None:
    plain, averaged, file = resnet_state(), resnet_state(), tmp_path / "last.pt"
    torch.save({"state_dict": plain, "state_dict_ema": averaged}, file)
    model = Teacher(name="test_resnet", checkpoint=str(file)).build().model
    assert torch.equal(model.fc.weight, averaged["fc.weight"])
    assert not torch.equal(model.fc.weight, plain["fc.weight"])


def test_a_fine_tuned_checkpoint_brings_its_own_classes(tmp_path: Path) -> None:
    file = tmp_path / "seven.safetensors"
    save_file(resnet_state(classes=7), file)
    teacher = Teacher(name="test_resnet", checkpoint=str(file))
    assert teacher.shapes().num_classes == 7
    assert teacher.build()(torch.rand(2, 3, 64, 64)).logits.shape == (2, 7)


def test_position_embeddings_follow_the_size(tmp_path: Path) -> None:
    source, file = timm.create_model("test_vit"), tmp_path / "vit.safetensors"
    save_file(source.state_dict(), file)
    model = Teacher(name="test_vit", checkpoint=str(file), img_size=96).build().model
    assert source.get_parameter("pos_embed").shape[1] - model.pos_embed.shape[1] == 10 * 10 - 6 * 6
    assert torch.equal(model.blocks[5].mlp.fc1.weight, source.get_parameter("blocks.5.mlp.fc1.weight"))


def test_keys_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state, file = resnet_state(), tmp_path / "other.pth"
    del state["fc.bias"], state["conv1.0.weight"]
    state |= {"neck.weight": torch.zeros(1), "layer1.0.conv1.weight": torch.zeros(2, 2)}
    torch.save(state, file)
    message = refused(Teacher(name="test_resnet", checkpoint=str(file)), by_shapes=False)
    assert f"checkpoint {file} does not fit 'test_resnet'" in message
    assert "2 keys missing (conv1.0.weight, fc.bias)" in message
    assert "1 keys unknown (neck.weight)" in message
    assert "1 keys of another shape (layer1.0.conv1.weight [2, 2] instead of [32, 32, 3, 3])" in message


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    for name, content in (("text.pth", b"hello"), ("cut.safetensors", b"\x08\0\0\0\0\0\0\0{")):
        (tmp_path / name).write_bytes(content)
        assert "cannot be read as weights" in refused(Teacher(name="test_resnet", checkpoint=str(tmp_path / name)))
    torch.save([1, 2], tmp_path / "list.pth")
    assert "holds no state dict" in refused(Teacher(name="test_resnet", checkpoint=str(tmp_path / "list.pth")))


def test_without_a_hub_the_ways_out_are_named(tmp_path: Path) -> None:
    script = "from teachers import Teacher; Teacher(name='resnet18.a1_in1k').build()"
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "", "PYTHONPATH": ":".join(sys.path)}
    failed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    last = failed.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: the weights of 'resnet18.a1_in1k' (hub timm/resnet18.a1_in1k) cannot be had:")
    assert "give a weights file (checkpoint), a folder (local-dir:FOLDER), or" in last


def test_the_config_imports_neither_torch_nor_timm() -> None:
    script = "import sys, teachers; teachers.Teacher(name='resnet50'); print({'torch', 'timm'} & sys.modules.keys())"
    environment = {"PATH": "", "PYTHONPATH": ":".join(["", *sys.path])}
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert ran.stdout.strip() == "set()"


def test_help_shows_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(Teacher, args=["--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for phrase in (
        "local-dir:FOLDER",
        "loads with weights_only",
        "the model's own size",
        "fitted",
        "checked against eager",
    ):
        assert phrase in text
