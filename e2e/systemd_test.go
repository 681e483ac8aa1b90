// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestUnits: systemd takes the units that the documentation hands out.
func TestUnits(t *testing.T) {
	enabled(t)
	units, err := filepath.Glob("../website/systemd/*.service")
	if err != nil || len(units) == 0 {
		t.Fatalf("no units: %v", err)
	}
	for _, unit := range units {
		t.Run(filepath.Base(unit), func(t *testing.T) {
			data, err := os.ReadFile(unit)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(data, []byte("/usr/local/bin/weft ")) {
				t.Error("it doesn't start /usr/local/bin/weft")
			}
			name := strings.Replace(filepath.Base(unit), "@.", "@web.", 1)
			path := filepath.Join(t.TempDir(), name)
			// systemd looks whether the program is there.
			if err := os.WriteFile(path, bytes.ReplaceAll(data, []byte("/usr/local/bin/weft "), []byte(binary()+" ")), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("systemd-analyze", "verify", "--man=no", path).CombinedOutput()
			if err != nil || len(bytes.TrimSpace(out)) > 0 {
				t.Errorf("systemd-analyze verify: %v\n%s", err, out)
			}
		})
	}
}

// bootScript runs a systemd of its own over the units of a directory ($1), in namespaces and beneath a cgroup of its own. Who kills what is named in
// $1/pid, or the script, ends all of it.
const bootScript = `set -e
mount --make-rprivate /
mkdir "$1/cgroup"
mount -t cgroup2 cgroup2 "$1/cgroup"
mine="$1/cgroup/weft-e2e-$$"
mkdir "$mine"
sh -c 'echo 0 >"$2/cgroup.procs"; echo $$ >"$1/pid"; exec setpriv --pdeathsig KILL unshare --pid --mount --uts --ipc --cgroup --fork --kill-child sh -c "
	set -e
	mount -t tmpfs tmpfs /run
	mkdir -p /run/systemd/system
	cp \"$1\"/*.service \"$1\"/*.target /run/systemd/system
	umount -R /sys/fs/cgroup
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
	mount -t proc proc /proc
	container=weft-e2e exec /lib/systemd/systemd --system --unit=weft.target --log-target=console --log-level=notice --show-status=no"' sh "$1" "$mine" || true
find "$mine" -depth -type d -exec rmdir {} +
umount "$1/cgroup"
rmdir "$1/cgroup"
`

// booted is a systemd with units.
type booted struct {
	t   *testing.T
	dir string
	pid int // of systemd
}

func boot(t *testing.T, units func(dir string) map[string]string) *booted {
	t.Helper()
	enabled(t)
	if os.Getuid() != 0 {
		t.Skip("only root can boot a systemd")
	}
	if out, err := exec.Command("unshare", "--pid", "--mount", "--cgroup", "--fork", "sh", "-c", "mount --make-rprivate / && mount -t cgroup2 cgroup2 /mnt").CombinedOutput(); err != nil {
		t.Skipf("this host has no namespaces, or no cgroups of version 2, for a systemd of its own: %v %s", err, out)
	}
	b := &booted{t: t, dir: t.TempDir()}
	if err := os.Chmod(filepath.Dir(b.dir), 0o755); err != nil { // units of other users read their scripts
		t.Fatal(err)
	}
	for name, text := range units(b.dir) {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p, err := startAs(0, "systemd", filepath.Join(b.dir, "systemd.log"), "unshare", "--mount", "sh", "-c", bootScript, "sh", b.dir)
	if err != nil {
		t.Fatal(err)
	}
	var outer int // unshare's
	t.Cleanup(func() {
		if outer > 0 {
			_ = syscall.Kill(outer, syscall.SIGKILL) // and with it systemd, and all that it runs
			select {
			case <-p.done: // its cgroups are gone
			case <-time.After(30 * time.Second):
				t.Error("systemd's cgroups are still there")
			}
		}
		p.kill()
	})
	until(t, 30*time.Second, func() error {
		data, err := os.ReadFile(filepath.Join(b.dir, "pid"))
		if err == nil {
			_, err = fmt.Sscan(string(data), &outer)
		}
		if err == nil {
			data, err = os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", outer))
		}
		if err == nil {
			_, err = fmt.Sscan(string(data), &b.pid)
		}
		if err == nil {
			_, err = b.systemctl("is-active", "weft.target")
		}
		return err
	})
	return b
}

func (b *booted) systemctl(args ...string) (string, error) {
	out, err := exec.Command("nsenter", append([]string{"--target", fmt.Sprint(b.pid), "--all", "systemctl"}, args...)...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("systemctl %v: %w: %s %s", args, err, out, tail(filepath.Join(b.dir, "systemd.log"), 5))
	}
	return string(out), err
}

// answers are what a unit that asks again and again was answered.
func (b *booted) answers(unit string) []string {
	data, _ := os.ReadFile(filepath.Join(b.dir, unit+".out")) // none is none yet
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
}

// service is a unit's text.
func service(start, more string) string {
	return "[Unit]\nDefaultDependencies=no\n[Service]\n" + more + "ExecStart=" + start + "\n"
}

// asking is a program that asks for a path again and again, and prints the last line of each answer.
func asking(addr, path string) string {
	return fmt.Sprintf(`while sleep 0.1; do a=$(exec 3<>/dev/tcp/127.0.0.1/%s && printf "GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n" >&3 && timeout 5 tail -n1 <&3); echo "<$a>"; done 2>/dev/null`,
		addr[strings.LastIndexByte(addr, ':')+1:], path)
}

// A service that is bound to a systemd unit calls from that unit, in whatever slice it is and after each restart; another unit, and a process of no
// unit, do not, though all are root's. A proxy that is bound to one gets its key there alone.
func TestServiceOfAUnit(t *testing.T) {
	enabled(t)
	httpAddr, upstream := loopback(mustPort(t)), loopback(mustPort(t))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	api := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "I am api") })}
	go func() { _ = api.Serve(l) }() // ends with Close
	t.Cleanup(func() { _ = api.Close() })
	port := func(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }
	b := boot(t, func(dir string) map[string]string {
		config := fmt.Sprintf(`
			data_dir = %q  server = true  bootstrap = true  bind_addr = "127.0.0.1"  node_name = "n1"
			ports { http = %s  grpc = %d  grpc_tls = -1  https = -1  dns = -1  server = %d  serf_lan = %d  serf_wan = -1 }
			service { name = "web"  port = %d  connect { sidecar_service { port = %d  proxy {
				local_identity { units = ["web.service"]  proxy { units = ["web-sidecar.service", "keeper.service"] } }
				upstreams = [{ destination_name = "api"  local_bind_port = %s }] } } } }
			service { name = "api"  port = %s  connect { sidecar_service { port = %d } } }`,
			filepath.Join(dir, "data"), port(httpAddr), mustPort(t), mustPort(t), mustPort(t), mustPort(t), mustPort(t), port(upstream), port(l.Addr().String()), mustPort(t))
		files := map[string]string{"agent.hcl": config, "weft.target": "[Unit]\nDefaultDependencies=no\nWants=agent.service web-sidecar.service api-sidecar.service"}
		run := func(name string, args ...string) string {
			return service(binary()+" "+strings.Join(args, " "), "Restart=always\nRestartSec=100ms\nStandardOutput=append:"+filepath.Join(dir, name+".log")+"\nStandardError=inherit\n")
		}
		files["agent.service"] = run("agent", "agent", "-config-file", filepath.Join(dir, "agent.hcl"))
		for _, name := range []string{"web", "api"} {
			files[name+"-sidecar.service"] = run(name+"-sidecar", "connect", "proxy", "-http-addr", httpAddr, "-sidecar-for", name)
		}
		key := "/v1/agent/connect/proxy/web-sidecar-proxy"
		for name, script := range map[string]string{"web": asking(upstream, "/"), "neighbour": asking(upstream, "/"), "keeper": asking(httpAddr, key), "thief": asking(httpAddr, key)} {
			files[name+".sh"] = script
			start := "/bin/bash " + filepath.Join(dir, name+".sh")
			if strings.Contains(script, key) { // root may have keys anyhow
				start = "/usr/bin/setpriv --reuid=61003 --regid=61003 --clear-groups " + start
			}
			files[name+".service"] = service(start, "Slice=shop-front.slice\nStandardOutput=append:"+filepath.Join(dir, name+".out")+"\n")
			files["weft.target"] += " " + name + ".service"
		}
		files["weft.target"] += "\n"
		return files
	})
	answered := func(unit, want string, after int) {
		t.Helper()
		until(t, 60*time.Second, func() error {
			all := b.answers(unit)
			if last := all[len(all)-1]; len(all) <= after || !strings.Contains(last, want) {
				return fmt.Errorf("%s is answered %.300q; %s", unit, last, tail(filepath.Join(b.dir, "web-sidecar.log"), 3))
			}
			return nil
		})
	}
	answered("web", "<I am api>", 0)
	answered("neighbour", "<>", len(b.answers("neighbour"))+5)
	answered("keeper", `"Secret"`, 0)
	answered("thief", "run the proxy as that", len(b.answers("thief"))+5)
	for unit, secret := range map[string]string{"neighbour": "I am", "thief": "Secret"} {
		if all := strings.Join(b.answers(unit), " "); strings.Contains(all, secret) {
			t.Errorf("%s was answered %.3000s", unit, all)
		}
	}
	if resp, err := (&http.Client{Timeout: 5 * time.Second}).Get("http://" + upstream); err == nil {
		resp.Body.Close()
		t.Errorf("a process of no unit was answered %s", resp.Status)
	}
	if _, err := b.systemctl("restart", "web.service"); err != nil {
		t.Fatal(err)
	}
	answered("web", "<I am api>", len(b.answers("web"))+3) // its cgroup is another one
}
