// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/weftmesh/weft/internal/uuid"
)

// The users of one host: the agent's, a service's and its sidecar's, and a neighbour who is neither.
const (
	agentUser, serviceUser, sidecarUser, neighbour = 61001, 61002, 61003, 61004
)

// dialAs dials TCP as another user's process would: the kernel takes a socket to be its maker's.
func dialAs(uid int) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		syscall.RawSyscall(syscall.SYS_SETFSUID, uintptr(uid), 0, 0)
		defer syscall.RawSyscall(syscall.SYS_SETFSUID, 0, 0, 0)
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
}

// sharedHost is a host that several users have, with ACLs on; web's registration says which processes it is.
type sharedHost struct {
	t                         *testing.T
	dir, dataDir, weft        string // weft is a copy of the program that everybody may run
	root, token               string // a management token, and one for the services
	http, grpc, upstream, app string // of the agent, and of web
	admin, webSecret          string // of web's sidecar
}

func newSharedHost(t *testing.T) *sharedHost {
	t.Helper()
	enabled(t)
	if os.Getuid() != 0 {
		t.Skip("only root can be several users")
	}
	dir, err := os.MkdirTemp("", "weft-shared")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h := &sharedHost{t: t, dir: dir, dataDir: filepath.Join(dir, "data"), weft: filepath.Join(dir, "weft")}
	for name, secret := range map[string]*string{"root": &h.root, "token": &h.token} {
		if *secret, err = uuid.New(rand.Reader); err != nil {
			t.Fatal(name, err)
		}
	}
	program, err := os.ReadFile(binary())
	if err == nil {
		err = errors.Join(os.Chmod(dir, 0o755), os.WriteFile(h.weft, program, 0o755), os.Mkdir(h.dataDir, 0o755), os.Chown(h.dataDir, agentUser, agentUser))
	}
	if err != nil {
		t.Fatal(err)
	}
	h.begin()
	return h
}

// begin starts agent, services and sidecars.
func (h *sharedHost) begin() {
	t := h.t
	h.http, h.grpc, h.upstream, h.admin = loopback(mustPort(t)), loopback(mustPort(t)), loopback(mustPort(t)), loopback(mustPort(t))
	ports := map[string]int{}
	for _, name := range []string{"web", "api"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "I am "+name) })}
		go func() { _ = server.Serve(l) }() // ends with Close
		t.Cleanup(func() { _ = server.Close() })
		ports[name] = l.Addr().(*net.TCPAddr).Port
	}
	h.app = loopback(ports["web"])
	port := func(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }
	config := fmt.Sprintf(`
		data_dir = %q  server = true  bootstrap = true  bind_addr = "127.0.0.1"  node_name = "n1"  log_level = "debug"
		acl { enabled = true  default_policy = "deny"  tokens { initial_management = %[2]q  agent = %[2]q } }
		ports { http = %[3]s  grpc = %s  grpc_tls = -1  https = -1  dns = -1  server = %d  serf_lan = %d  serf_wan = -1 }
		service { name = "web"  port = %d  token = %[8]q
			connect { sidecar_service { port = %d  proxy {
				local_identity { uids = [%d]  proxy { uids = [%d] } }
				upstreams = [{ destination_name = "api"  local_bind_port = %s }] } } } }
		service { name = "api"  port = %d  token = %[8]q  connect { sidecar_service { port = %[14]d } } }`,
		h.dataDir, h.root, port(h.http), port(h.grpc), mustPort(t), mustPort(t), ports["web"], h.root, mustPort(t), serviceUser, sidecarUser, port(h.upstream), ports["api"], mustPort(t))
	file := filepath.Join(h.dir, "agent.hcl")
	if err := errors.Join(os.WriteFile(file, []byte(config), 0o600), os.Chown(file, agentUser, agentUser)); err != nil {
		t.Fatal(err)
	}
	h.start(agentUser, "agent", "agent", "-config-file", file)
	until(t, 30*time.Second, func() error {
		code, text := h.ask(0, "GET", "/v1/agent/connect/proxy/web-sidecar-proxy", h.root, "")
		var a struct{ Secret string }
		if code == 200 {
			_ = json.Unmarshal([]byte(text), &a) // an empty secret fails below
		}
		if h.webSecret = a.Secret; a.Secret == "" {
			return fmt.Errorf("%d %s: %s", code, text, tail(filepath.Join(h.dir, "agent.log"), 3))
		}
		return nil
	})
	for _, w := range [][2]string{
		{"/v1/acl/policy", `{"Name":"services","Rules":"service_prefix \"\" { policy = \"write\" } node_prefix \"\" { policy = \"read\" }"}`},
		{"/v1/acl/token", `{"SecretID":"` + h.token + `","Policies":[{"Name":"services"}]}`},
		{"/v1/config", `{"Kind":"service-intentions","Name":"api","Sources":[{"Name":"web","Action":"allow"}]}`},
	} {
		until(t, 20*time.Second, func() error {
			if code, text := h.ask(0, "PUT", w[0], h.root, w[1]); code != 200 {
				return fmt.Errorf("%s: %d %s", w[0], code, text)
			}
			return nil
		})
	}
	t.Setenv("WEFT_HTTP_TOKEN", h.token) // arguments can be read by everybody
	h.start(sidecarUser, "web-sidecar", "connect", "proxy", "-http-addr", h.http, "-sidecar-for", "web", "-admin-bind", h.admin)
	h.start(sidecarUser, "api-sidecar", "connect", "proxy", "-http-addr", h.http, "-sidecar-for", "api", "-admin-bind", loopback(mustPort(t)))
	until(t, 30*time.Second, func() error {
		if got := h.get(serviceUser, "http://"+h.upstream); got != "I am api" {
			return fmt.Errorf("the service can't call: %s: %s", got, tail(filepath.Join(h.dir, "web-sidecar.log"), 3))
		}
		return nil
	})
}

func (h *sharedHost) start(uid uint32, name string, args ...string) *process {
	h.t.Helper()
	p, err := startAs(uid, name, filepath.Join(h.dir, name+".log"), h.weft, args...)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(p.kill)
	return p
}

// ask makes a request of the agent's API as a user's process.
func (h *sharedHost) ask(uid int, method, path, token, body string) (int, string) {
	h.t.Helper()
	req, err := http.NewRequest(method, "http://"+h.http+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("X-Consul-Token", token)
	client := &http.Client{Transport: &http.Transport{DialContext: dialAs(uid), DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	data, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data)
}

// get is what a user's process is answered at a URL, or the error.
func (h *sharedHost) get(uid int, url string) string {
	client := &http.Client{Transport: &http.Transport{DialContext: dialAs(uid), DisableKeepAlives: true}, Timeout: 5 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		return "error: " + err.Error()
	}
	defer resp.Body.Close()
	data, _ := io.ReadAll(resp.Body)
	return string(data)
}

// secretsBy asks ADS for web's sidecar's certificate and key as a user's process that has its secret.
func (h *sharedHost) secretsBy(uid int) ([]byte, error) {
	conn, err := grpc.NewClient("passthrough:///"+h.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return dialAs(uid)(ctx, "tcp", addr) }))
	if err != nil {
		h.t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "x-weft-proxy-secret", h.webSecret), callWithin)
	defer cancel()
	s, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
	if err != nil {
		return nil, err
	}
	// What sending says, the answer says too.
	_ = s.Send(&discoveryv3.DiscoveryRequest{Node: &corev3.Node{Id: "web-sidecar-proxy"}, TypeUrl: "type.googleapis.com/envoy.config.listener.v3.Listener"})
	var all bytes.Buffer
	r, err := s.Recv()
	for _, a := range r.GetResources() {
		all.Write(a.GetValue())
	}
	return all.Bytes(), err
}

// envoyShowsNoSecret starts an Envoy as a sidecar, which gets its configuration by its secret and token, and seeks both and its key in what it shows.
func (h *sharedHost) envoyShowsNoSecret(program string) {
	t, admin := h.t, loopback(mustPort(h.t))
	var a struct{ Secret string }
	_, text := h.ask(sidecarUser, "GET", "/v1/agent/connect/proxy/api-sidecar-proxy", h.token, "")
	if err := json.Unmarshal([]byte(text), &a); err != nil || a.Secret == "" {
		t.Fatalf("%v: %s", err, text)
	}
	p := h.start(0, "envoy", "connect", "envoy", "-envoy-binary", program, "-http-addr", h.http, "-token", h.token, "-sidecar-for", "api", "-admin-bind", admin)
	defer p.kill()
	var got string
	until(t, 20*time.Second, func() error {
		if got = h.get(neighbour, "http://"+admin+"/config_dump?include_eds"); !strings.Contains(got, "CERTIFICATE") && !strings.Contains(got, `"leaf"`) {
			return fmt.Errorf("%.200s %s", got, tail(filepath.Join(h.dir, "envoy.log"), 5))
		}
		return nil
	})
	for what, secret := range map[string]string{"secret": a.Secret, "token": h.token, "key": "PRIVATE KEY"} {
		if strings.Contains(got, secret) {
			t.Errorf("%s shows the %s", program, what)
		}
	}
}

// runAs runs a program as a user.
func runAs(uid uint32, args ...string) (string, error) {
	c := exec.Command(args[0], args[1:]...)
	c.SysProcAttr, c.Dir = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}, "/"
	out, err := c.CombinedOutput()
	return string(out), err
}

// What a process of another user on the same host can't do where a registration says who the service and its proxy are: call as the service, or get
// its key, even with the service's token and the proxy's secret. The control is who may: the same request, by another user.
func TestWhatANeighbourCantDo(t *testing.T) {
	h := newSharedHost(t)
	t.Run("call as the service", func(t *testing.T) {
		for uid, want := range map[int]bool{serviceUser: true, neighbour: false, sidecarUser: false, 0: false} {
			if got := h.get(uid, "http://"+h.upstream); (got == "I am api") != want {
				t.Errorf("uid %d: %q", uid, got)
			}
		}
	})
	t.Run("get the key of the API", func(t *testing.T) {
		for _, path := range []string{"/v1/agent/connect/ca/leaf/web", "/v1/agent/connect/proxy/web-sidecar-proxy"} {
			for uid, want := range map[int]int{sidecarUser: 200, agentUser: 200, 0: 200, neighbour: 403, serviceUser: 403} {
				if code, text := h.ask(uid, "GET", path, h.token, ""); code != want || code == 403 && !strings.Contains(text, fmt.Sprint("uid ", uid)) {
					t.Errorf("%s with the service's token, uid %d: %d %s, want %d", path, uid, code, text, want)
				}
			}
			if code, text := h.ask(sidecarUser, "GET", path, "", ""); code != 403 {
				t.Errorf("%s without a token: %d %s", path, code, text)
			}
		}
		// api's registration says nothing of it.
		if code, text := h.ask(neighbour, "GET", "/v1/agent/connect/ca/leaf/api", h.token, ""); code != 200 {
			t.Errorf("%d %s", code, text)
		}
	})
	t.Run("get the configuration of ADS", func(t *testing.T) {
		for uid, want := range map[int]codes.Code{sidecarUser: codes.OK, neighbour: codes.PermissionDenied, serviceUser: codes.PermissionDenied} {
			if data, err := h.secretsBy(uid); status.Code(err) != want || (len(data) > 0) != (err == nil) {
				t.Errorf("uid %d: %d bytes, %v, want %v", uid, len(data), err, want)
			}
		}
		if log := tail(filepath.Join(h.dir, "agent.log"), 10_000); !strings.Contains(log, fmt.Sprintf("proxy=web-sidecar-proxy uid=%d", neighbour)) {
			t.Error("the agent's log doesn't name who was refused")
		}
	})
	t.Run("read the agent's disk", func(t *testing.T) {
		var files int
		err := filepath.Walk(h.dataDir, func(path string, info os.FileInfo, err error) error {
			if err != nil || !info.Mode().IsRegular() {
				return err
			}
			files++
			if out, err := runAs(neighbour, "/bin/cat", path); err == nil && info.Name() != "node-id" {
				t.Errorf("%s can be read: %d bytes", path, len(out))
			}
			if out, err := runAs(agentUser, "/bin/cat", path); err != nil {
				t.Errorf("%s can't be read by the agent's user: %v %s", path, err, out)
			}
			return nil
		})
		if err != nil || files < 3 {
			t.Errorf("%d files: %v", files, err)
		}
	})
	t.Run("find a key at the admin port", func(t *testing.T) {
		for _, path := range []string{"/config", "/certs", "/metrics"} {
			if got := h.get(neighbour, "http://"+h.admin+path); !strings.Contains(got, "web") || strings.Contains(got, "PRIVATE KEY") || strings.Contains(got, h.webSecret) {
				t.Errorf("%s: %.300q", path, got)
			}
		}
	})
	t.Run("find a secret at Envoy's admin port", func(t *testing.T) {
		for _, program := range []string{envoy(), os.Getenv("WEFT_ENVOY_OLDEST")} {
			if program != "" {
				h.envoyShowsNoSecret(program)
			}
		}
	})
	t.Run("control: reach the service's own port", func(t *testing.T) {
		if got := h.get(neighbour, "http://"+h.app); got != "I am web" {
			t.Error(got)
		}
	})
}
