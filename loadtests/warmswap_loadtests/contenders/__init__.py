"""What is compared under load: ways to serve the same models, each started in a fresh process.

contender      what a contender is, and its process
wire           how requests look on the wire, over HTTP
probes         when a Kubernetes Service would route to it
baseline_model the pipeline in one process, for the two FastAPI servers
naive_app      FastAPI, model loaded by the first request
preloading_app FastAPI, model loaded and warmed up before it is ready
fastapi_servers, triton_servers   the contenders themselves
registry       all of them by name
"""
