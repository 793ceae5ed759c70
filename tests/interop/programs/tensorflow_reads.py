"""Restores a checkpoint as OpenAI's code does and writes its variables: FOLDER OUTPUT.npz."""

import sys

import numpy as np
import tensorflow as tf

folder, output = sys.argv[1:]
latest = tf.train.latest_checkpoint(folder)
shapes = dict(tf.train.list_variables(latest))
tf.compat.v1.disable_eager_execution()
with tf.compat.v1.Session() as session:
    variables = [tf.compat.v1.get_variable(name, shape) for name, shape in shapes.items()]
    tf.compat.v1.train.Saver(variables).restore(session, latest)
    np.savez(output, **dict(zip(shapes, session.run(variables), strict=True)))
