"""Run the open-sci-ref language models, and run them right, on every transformers release from 4.48 on."""
