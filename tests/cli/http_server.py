#!/usr/bin/env python3
"""A web server with faults, on 127.0.0.1: http_server.py FOLDER PORT_FILE LOG [CERTIFICATE KEY].

/FAULT/NAME is the file NAME of FOLDER, served with that fault; "ok" has none.  The port goes to
PORT_FILE when it listens; LOG gets a line "FAULT RANGE STATUS" for each request.
"""
import base64
import collections
import hashlib
import http.server
import os
import re
import ssl
import sys
import threading
import time

folder, port_file, log_file = sys.argv[1:4]
lock = threading.Lock()
seen = collections.Counter()  # requests by path, and by path and range
log = open(log_file, "w", buffering=1)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def note(self, status):
        with lock:
            log.write("%s %s %d\n" % (self.fault, self.headers.get("Range", "-"), status))

    def start(self, status, headers, close=False):
        self.note(status)
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        if close:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()

    def redirect(self, to):
        self.start(302, {"Location": to, "Content-Length": 0})

    def refuse(self, status, **headers):
        body = b"an error of the server, which is no disk\n" * 10
        self.start(status, {"Content-Length": len(body), **headers})
        self.wfile.write(body)

    def do_GET(self):
        match = re.fullmatch(r"/([a-z0-9-]+)/([A-Za-z0-9._-]+)(\?.*)?", self.path)
        self.fault, name, _ = match.groups() if match else ("none", "", None)
        path = os.path.join(folder, name)
        if not match or not os.path.isfile(path):
            return self.refuse(404)
        with lock:
            seen[self.path] += 1
            seen[self.path, self.headers.get("Range")] += 1
            self.turn = seen[self.path]
            self.turn_of_range = seen[self.path, self.headers.get("Range")]
        with open(path, "rb") as file:
            self.serve(name, file, os.path.getsize(path))

    do_HEAD = None

    def serve(self, name, file, size):
        fault = self.fault
        if fault == "redirect":
            return self.redirect("/moved/" + name)
        if fault == "expired" and self.turn == 1:
            return self.redirect("/once/" + name)
        if fault == "once" and self.turn > 1:
            return self.refuse(403)
        if fault == "loop":
            return self.redirect("/loop/" + name)
        if fault.startswith("to-"):
            return self.redirect(open(os.path.join(folder, fault)).read().strip())
        if fault == "auth":
            wanted = base64.b64encode(b"user:se cret").decode()
            if self.headers.get("Authorization") != "Basic " + wanted:
                return self.refuse(401, **{"WWW-Authenticate": 'Basic realm="x"'})
        if fault in ("busy", "forbidden") or (fault == "flaky" and self.turn_of_range < 3):
            return self.refuse(403 if fault == "forbidden" else 500)
        if fault == "later" and self.turn_of_range == 1:
            return self.refuse(429, **{"Retry-After": "1"})
        if fault == "dies" and self.turn > 4:
            return self.refuse(503)
        healed = os.path.exists(os.path.join(folder, "healed"))
        if fault == "breaks" and self.turn > 12 and not healed:
            return self.refuse(503)
        self.serve_range(file, size)

    def validators(self, size):
        tag = hashlib.sha1(b"%d" % size).hexdigest()
        if self.fault in ("changing", "replaced") and self.turn > 5:
            tag = "other"
        if self.fault == "bare" or self.fault == "grows":
            return {}
        if self.fault in ("date", "date-changing"):
            day = 2 if self.fault == "date-changing" and self.turn > 5 else 1
            return {"Last-Modified": "Mon, %02d Jan 2024 00:00:00 GMT" % day}
        return {"ETag": ('W/"%s"' if self.fault == "weak" else '"%s"') % tag}

    def serve_range(self, file, size):
        fault, headers = self.fault, self.validators(size)
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if self.headers.get("Accept-Encoding") != "identity":
            return self.refuse(400)
        if "If-Match" in self.headers and fault == "replaced":
            if self.headers["If-Match"] != headers["ETag"]:
                return self.refuse(412)
        if fault == "norange" or not asked:
            self.start(200, {"Content-Length": size, **headers}, close=True)
            return self.wfile.write(file.read(1 << 20))
        first, last = int(asked[1]), min(int(asked[2]), size - 1)
        if first >= size:
            return self.refuse(416, **{"Content-Range": "bytes */%d" % size})
        total = {"huge": 1 << 62, "overflow": "9" * 30, "unknown": "*"}.get(fault, size)
        if fault == "grows" and self.turn > 5:
            total += 1
        shift = 512 if fault == "shifted" and self.turn > 3 else 0
        headers["Content-Range"] = "bytes %d-%d/%s" % (first + shift, last + shift, total)
        if fault == "gzip":
            headers["Content-Encoding"] = "gzip"
        if fault == "multipart":
            headers["Content-Type"] = "multipart/byteranges; boundary=x"
            del headers["Content-Range"]
        if fault == "headers":
            headers.update(("X-%d" % i, "y" * 1000) for i in range(400))
        file.seek(first)
        self.send_body(file.read(last + 1 - first), headers)

    def send_body(self, body, headers):
        fault = self.fault
        cut = {"cut": 100000, "tiny": 10}.get(fault)
        if fault == "short" and self.turn > 1:
            body = body[:100]
        if fault == "long" and self.turn > 1:
            body += b"more than was asked for"
        stalls = fault == "stall" and self.turn == 3 or fault == "stalls" and self.turn > 1
        headers["Content-Length"] = len(body)
        self.start(206, headers, close=cut is not None)
        if cut is not None and len(body) > cut:
            self.wfile.write(body[:cut])
            self.wfile.flush()
            return
        if stalls:
            self.wfile.write(body[:1000] if fault == "stall" else b"")
            self.wfile.flush()
            self.close_connection = True
            time.sleep(60)  # the client leaves before; nobody waits for this thread
            return
        self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # clients leave as they like


server = Server(("127.0.0.1", 0), Handler)
if len(sys.argv) > 4:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[4], sys.argv[5])
    server.socket = context.wrap_socket(server.socket, server_side=True)
with open(port_file + ".new", "w") as out:
    out.write(str(server.server_address[1]))
os.rename(port_file + ".new", port_file)
server.serve_forever()
