"""What a U-Net is conditioned on, by the names that messages use."""

import torch

from neuroimagen.trainer.reconstruction.pipelines.conditioning import Conditioning


def test_what_is_given_is_named_and_nothing_else() -> None:
    assert Conditioning().tensors() == {}
    text, pooled, image = torch.ones(2, 3, 4), torch.ones(2, 5), torch.ones(2, 6)
    assert list(Conditioning(text=text).tensors()) == ["the text condition"]
    named = Conditioning(text=text, pooled=pooled, image={"face": image}).tensors()
    assert named["the text condition"] is text
    assert named["the pooled text condition"] is pooled
    assert named["the image condition 'face'"] is image
