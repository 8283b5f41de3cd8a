"""Where the candidate of a rollout comes from: one version of one model, out of a folder, an archive or a registry.

DIR, DIR/..           a version folder, or the folder around exactly one
FILE.tar[.gz]         a tar archive, or the http(s) URL of one
oci:DIR[:TAG]         an OCI image layout on disk, as ``oras`` and ``skopeo`` write it
models:/NAME@ALIAS    a version in an MLflow model registry

Whatever it was, it ends as a private folder of plain files whose manifest was held against them.
"""
