"""Models as files for others: packages with a model card, their upload, and the average of several models.

`package` writes the folder that `push` uploads; `model_card` and `card_images` make its page; `averaging` combines the
weights of several models into one.
"""
