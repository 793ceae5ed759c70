"""Saves variables as OpenAI's code does: INPUT.npz FOLDER."""

import sys

import numpy as np
import tensorflow as tf

arrays, folder = np.load(sys.argv[1]), sys.argv[2]
tf.compat.v1.disable_eager_execution()
with tf.compat.v1.Session() as session:
    variables = [tf.compat.v1.get_variable(name, initializer=arrays[name]) for name in arrays.files]
    session.run(tf.compat.v1.global_variables_initializer())
    tf.compat.v1.train.Saver(variables, max_to_keep=5).save(session, f"{folder}/model", global_step=200)
