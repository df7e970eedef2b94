"""Where records of results and failures go, one module per format. A sink knows no options."""
