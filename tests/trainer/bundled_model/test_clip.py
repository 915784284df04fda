"""The CLIP model of the bundled model: its tokenizer and its sizes."""

from pathlib import Path

from neuroimagen.trainer.bundled_model.clip import TEXT_WIDTH, clip_config, train_tokenizer
from neuroimagen.trainer.bundled_model.training_stimuli import MAX_TOKENS, draw_stimuli, tokenize


def test_a_tokenizer_learns_the_captions_words_and_encodes_any_text(tmp_path: Path) -> None:
    captions = draw_stimuli(24, seed=0).class_captions
    tokenizer = train_tokenizer(captions, tmp_path)
    tokens = tokenize(tokenizer, [captions[0], "Ünknown wörds 漢字"])
    assert tokens.shape == (2, MAX_TOKENS)
    words = captions[0].split()
    assert tokenizer.decode(tokens[0], skip_special_tokens=True).strip() == captions[0].lower()
    assert (tokens[0] != tokenizer.pad_token_id).sum() <= 2 * len(words) + 2  # whole words, not letters
    assert "漢字" in tokenizer.decode(tokens[1], skip_special_tokens=True)
    config = clip_config(tokenizer)
    assert (config.text_config.vocab_size, config.text_config.hidden_size) == (len(tokenizer), TEXT_WIDTH)
