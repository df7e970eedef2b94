"""From a prompt to the last token."""
