"""Prediction over HTTP: `sais serve`. `sais.serving.app.create_app` makes the application of a predictor."""
