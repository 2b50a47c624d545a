"""How good is the audio: metrics, their means and the HTML report; `unisono.evaluation.runner.evaluate` does it all."""
