"""From files to rows of token ids: reading, splitting by document, the tokenizer, packing."""
