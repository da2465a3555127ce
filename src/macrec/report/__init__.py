"""The run report: `contents` holds its data, `render` writes it as HTML and as Markdown."""
