"""One network of a finished run, taken to a device: what is written, and what is asked of it before it may stay.

    module.py        the network with its preparation, as one module; what makes a dead export is refused here
    formats.py       the module -> bytes: safetensors, torch.export, ONNX, ExecuTorch
    recurrent.py     recurrent layers on the way to ONNX
    int8.py          ONNX -> ONNX with 8-bit weights and activations
    verify.py        the bytes run again on held-out data, and held against the network
    run_exported.py  the clean process in which they run
    export.py        all of it, in order
    from_run.py      a network of a run folder, exported or used at once
    predict.py       image files -> labels, by an export or a run
    predict_masks.py     -> masks
    predict_series.py    files of series -> labels
    vectors.py       the vectors of a recommender as a file
    predict_users.py     users -> their best items, by a run or by exported vectors
"""
