"""The environment variables that the program itself reads. A test looks for others in the code."""

from __future__ import annotations

VARIABLES = {
    "UNLEARN_DATA": "Folder of the image files that `cifar10-mini` and `reproduce` read.",
    "ORCHESTRATOR_CACHE": "Folder for local copies of an S3 store.",
    "ORCHESTRATOR_CACHE_GIB": "Size in GiB above which that folder is cleared. 20 by default.",
    "ORCHESTRATOR_TRACEBACK": "Set to anything: an operating-system error shows its traceback.",
    "RAY_ADDRESS": "Cluster to use where `--address` is not given.",
    "RAY_AUTH_MODE": "`token` turns Ray's token authentication on.",
    "RAY_AUTH_TOKEN": "Ray's token itself.",
    "RAY_AUTH_TOKEN_PATH": "File that holds Ray's token. Its mode should be 600.",
    "RAY_TMPDIR": "Folder of a local Ray's sockets and files. Keep the path short.",
    "MLFLOW_TRACKING_URI": "MLflow server of recipes that name none, and of `doctor`.",
    "AWS_ENDPOINT_URL": "Address of an S3 server that is not Amazon's.",
    "AWS_ENDPOINT_URL_S3": "The same, for S3 alone. It goes first.",
    "AWS_REGION": "Region of the S3 bucket.",
    "AWS_DEFAULT_REGION": "The same, read after `AWS_REGION`.",
    "TMPDIR": "Folder for large temporary files of an audit.",
}
