// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/bits"
	"os"
	"strconv"
	"strings"
	"time"
)

// histogram counts durations in buckets 1/32 of a power of two wide, from 1 µs up.
type histogram struct {
	counts [40 * 32]uint32
	total  uint64
}

func (h *histogram) add(d time.Duration) {
	us := uint64(max(d.Nanoseconds()/100, 32)) // tenths of a microsecond
	exp := bits.Len64(us) - 6
	h.counts[min(exp*32+int(us>>exp)-32+32, len(h.counts)-1)]++
	h.total++
}

func (h *histogram) merge(o *histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.total += o.total
}

// at is the quantile q.
func (h *histogram) at(q float64) time.Duration {
	want, seen := uint64(q*float64(h.total)), uint64(0)
	for i, n := range h.counts {
		if seen += uint64(n); n > 0 && seen > want {
			exp, mantissa := (i-32)/32, (i-32)%32+32
			if i < 32 {
				exp, mantissa = 0, i
			}
			return time.Duration(uint64(mantissa)<<max(exp, 0)) * 100
		}
	}
	return 0
}

// clockTick is the unit of /proc/PID/stat's times on Linux.
const clockTick = 10 * time.Millisecond

// cpuOf is the processor time that processes have taken so far.
func cpuOf(pids []int) time.Duration {
	var sum time.Duration
	for _, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // it has ended: its load's calls fail
		}
		_, rest, _ := strings.Cut(string(data), ") ")
		f := strings.Fields(rest)
		if len(f) > 12 {
			user, _ := strconv.Atoi(f[11])
			system, _ := strconv.Atoi(f[12])
			sum += time.Duration(user+system) * clockTick
		}
	}
	return sum
}

// memoryOf is the anonymous memory and the proportional share of the process that takes most, in MB.
func memoryOf(pids []int) (anonymous, pss float64, err error) {
	for _, pid := range pids {
		a, p, err := usage(pid)
		if err != nil {
			return 0, 0, err
		}
		anonymous, pss = max(anonymous, a), max(pss, p)
	}
	return anonymous, pss, nil
}
