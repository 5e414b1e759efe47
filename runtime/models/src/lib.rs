//! Models as data: weight readers, one file per architecture, tokenizer, chat template.
