// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// floodTime is for how long a flood that was cut off is begun again, and again: a percentile of a few calls says nothing.
const floodTime = 4 * time.Second

// offence is what came of a flood.
type offence struct {
	Times  int           // that it was begun
	Cut    int           // that it was cut off
	First  time.Duration // until it was cut off for the first time
	Failed string
}

// allFloods are C61 to C76, as far as they are for a proxy, and those of another sidecar.
func allFloods() []flood {
	return slices.Concat(streamFloods(), plainFloods(), otherFloods(), carriedFloods())
}

// TestFloodOffender is the process of one that means harm: another than the one that measures, and one with the least right to the
// processors, as it would be on another machine.
func TestFloodOffender(t *testing.T) {
	id, addr := os.Getenv("WEFT_FLOOD"), os.Getenv("WEFT_FLOOD_ADDRESS")
	if id == "" {
		t.Skip("runs in a process of TestFloods")
	}
	i := slices.IndexFunc(allFloods(), func(f flood) bool { return f.id == id })
	if i < 0 {
		t.Fatalf("no flood %q", id)
	}
	f := allFloods()[i]
	if addr == nobody {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if f.port == carriedPort {
			conf, err := hostileTLS()
			if err != nil {
				t.Fatal(err)
			}
			l = tls.NewListener(l, conf)
		}
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() { _, _ = io.Copy(io.Discard, conn) }() // ends with the connection
			}
		}()
		addr = l.Addr().String()
	}
	fmt.Println(offenceReady) // what it costs to start is nothing of the flood
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	var o offence
	for began := time.Now(); ctx.Err() == nil && (o.Times == 0 || time.Since(began) < floodTime); {
		cut, err := f.send(ctx, addr)
		o.Times++
		if err != nil {
			o.Failed = err.Error()
			break
		}
		if cut {
			if o.Cut++; o.Cut == 1 {
				o.First = time.Since(began)
			}
		}
	}
	out, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%s%s\n", offenceMark, out)
	_, _ = io.Copy(io.Discard, os.Stdin) // nor what it costs to end
}

const (
	offenceReady = "ready"
	offenceMark  = "offence: "
	nobody       = "nobody" // the address of one who takes everything and does nothing
)

// offend runs a flood in a process of its own, with the calls of a victim meanwhile, and not while that process starts or ends.
func offend(t *testing.T, f flood, addr, victims string, most time.Duration) (a alongside, o offence, err error) {
	ctx, cancel := context.WithTimeout(t.Context(), most+10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nice", "-n", "19", os.Args[0], "-test.run", "^TestFloodOffender$", "-test.timeout", "100s")
	cmd.Env = append(os.Environ(), "WEFT_FLOOD="+f.id, "WEFT_FLOOD_ADDRESS="+addr)
	in, err := cmd.StdinPipe()
	if err != nil {
		return a, o, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return a, o, err
	}
	if err := cmd.Start(); err != nil {
		return a, o, err
	}
	defer func() { cancel(); _ = cmd.Wait() }() // it has said all that it has to say
	if err := confine(cmd.Process.Pid, runtime.NumCPU()-1, runtime.NumCPU()-1); err != nil {
		return a, o, err
	}
	lines := bufio.NewReader(out)
	said := ""
	for !strings.HasPrefix(said, offenceReady) && err == nil {
		said, err = lines.ReadString('\n')
	}
	if err != nil {
		return a, o, fmt.Errorf("the offender doesn't begin: %w", err)
	}
	a = beside(victims, func() {
		limit := time.AfterFunc(most, cancel)
		defer limit.Stop()
		_, err = io.WriteString(in, "\n")
		for !strings.HasPrefix(said, offenceMark) && err == nil {
			said, err = lines.ReadString('\n')
		}
	})
	if err != nil {
		return a, o, fmt.Errorf("the offender doesn't end: %w", err)
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(said, offenceMark)), &o); err != nil {
		return a, o, err
	}
	if o.Failed != "" {
		return a, o, errors.New(o.Failed)
	}
	return a, o, nil
}

// confine has a process, and what it starts from then on, run on these processors alone. A machine with one has nothing to share out.
func confine(pid, first, last int) error {
	if first < 0 || last < first {
		return nil
	}
	if out, err := exec.Command("taskset", "-a", "-c", "-p", fmt.Sprintf("%d-%d", first, last), strconv.Itoa(pid)).CombinedOutput(); err != nil {
		return fmt.Errorf("taskset: %s: %w", out, err)
	}
	return nil
}
