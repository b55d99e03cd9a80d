"""What a reader is shown: runs compared, findings put into words, figures, and the page that links them."""
