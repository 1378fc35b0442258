"""Reward models behind HTTP: `rmx serve`.

    request ──bodies──▶ JSON ──a route──▶ questions ──batching──▶ judgements ──the route──▶ answer

    server        the keys of `rmx serve`, the port, start, signals and end
    application   the routes together, and the gate in front of them: bearer key, refusals, metrics, one shape of error
    bodies        the bytes of a request within their limits, as JSON, as a record
    waiting       what a route asks, and the hall where it waits for its answer
    batching      one thread that takes what waits, up to a budget of tokens, and scores it
    sharing       comparisons of one prompt, from one request or several, as one row of tokens
    rendered      texts that a client has rendered already → token ids
    rows_route, vllm_routes, openrlhf_route, llamafactory_route    request and answer shapes
    prometheus, bearer                                             /metrics, the key

FastAPI, uvicorn and prometheus_client are imported by `application`, the routes, `prometheus` and `server` only, and
come with `pip install 'rmx[serve]'`.
"""
