"""A server with as much of MLflow's REST interface as its client asks of it here; what it was told is in memory."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

OPEN = {"do": "open", "run": {"id": "1", "name": "n", "kind": "k", "label": "l", "sweep": "s"}}
"""What a tracker's process is told when a stage begins."""


class Kept:
    """What a server was told, which another of the same place may go on with."""

    def __init__(self):
        self.experiments = {}
        self.runs = {}
        self.requests = 0

    def by_name(self):
        return {run["info"]["run_name"]: run for run in self.runs.values()}

    def answer(self, path, asked):
        self.requests += 1
        return getattr(self, path.rpartition("/mlflow/")[2].replace("/", "_").replace("-", "_"))(asked)

    def experiments_get_by_name(self, asked):
        if asked["experiment_name"] not in self.experiments:
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such experiment"}
        return 200, {"experiment": {"experiment_id": "1", "name": asked["experiment_name"], "lifecycle_stage": "active"}}

    def experiments_create(self, asked):
        self.experiments[asked["name"]] = "1"
        return 200, {"experiment_id": "1"}

    def runs_search(self, asked):
        wanted = asked["filter"].split("'")[1]
        return 200, {"runs": [self._told(run) for run in self.runs.values() if run["tags"]["raysp.run"] == wanted]}

    def runs_create(self, asked):
        run_id = f"{len(self.runs):032x}"
        info = {"run_id": run_id, "run_uuid": run_id, "experiment_id": "1", "run_name": asked["run_name"], "status": "RUNNING"}
        info |= {"start_time": asked["start_time"], "lifecycle_stage": "active", "artifact_uri": ""}
        tags = {tag["key"]: tag["value"] for tag in asked["tags"]}
        self.runs[run_id] = {"info": info, "tags": tags, "params": {}, "metrics": []}
        return 200, {"run": self._told(self.runs[run_id])}

    def runs_get(self, asked):
        return 200, {"run": self._told(self.runs[asked["run_id"]])}

    def runs_update(self, asked):
        self.runs[asked["run_id"]]["info"]["status"] = asked["status"]
        return 200, {"run_info": self.runs[asked["run_id"]]["info"]}

    def runs_log_batch(self, asked):
        run = self.runs[asked["run_id"]]
        if any(len(param["value"]) > 6000 for param in asked.get("params", ())):
            return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "too long"}
        run["tags"] |= {tag["key"]: tag["value"] for tag in asked.get("tags", ())}
        run["params"] |= {param["key"]: param["value"] for param in asked.get("params", ())}
        run["metrics"] += [(metric["key"], metric["value"], int(metric.get("step", 0))) for metric in asked.get("metrics", ())]
        return 200, {}

    def _told(self, run):
        metrics = [{"key": k, "value": v, "timestamp": 1, "step": step} for k, v, step in run["metrics"]]
        tags = [{"key": k, "value": v} for k, v in run["tags"].items()]
        return {"info": run["info"], "data": {"tags": tags, "metrics": metrics}}


@contextmanager
def serving(kept, port=0, pause_s=0.0):
    """Serve on loopback for the length of the block; yields the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            url = urlsplit(self.path)
            self._answer(url.path, {name: values[0] for name, values in parse_qs(url.query).items()})

        def do_POST(self):
            self._answer(self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, path, asked):
            time.sleep(pause_s)
            status, content = kept.answer(path, asked)
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
