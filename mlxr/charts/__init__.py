"""Reports as one HTML page: charts as inline SVG, and the document around them. No other file is needed."""
