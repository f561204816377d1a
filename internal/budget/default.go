package budget

import (
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
)

// Least is the smallest budget that is of use.
const Least = 16 << 20

// Default is a quarter of the memory that the process may use: the least of
// GOMEMLIMIT, the limit of its cgroup (version 1 or 2), and the machine's
// memory. Where none of them is known, it is 256 MiB.
func Default() int64 { return defaultOf("/", debug.SetMemoryLimit(-1)) }

func defaultOf(root string, goLimit int64) int64 {
	least := int64(math.MaxInt64)
	for _, n := range []int64{goLimit, cgroupLimit(root), machineMemory(root)} {
		if n > 0 {
			least = min(least, n)
		}
	}
	if least == math.MaxInt64 {
		return 256 << 20
	}
	return max(least/4, Least)
}

// cgroupLimit is the least limit of the process' cgroup and those around it;
// zero: none is known.
func cgroupLimit(root string) int64 {
	own, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return 0
	}
	least := int64(0)
	for line := range strings.Lines(string(own)) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, path, _ := strings.Cut(rest, ":")
		base, file := "sys/fs/cgroup", "memory.max"
		switch {
		case controllers == "":
		case strings.Contains(","+controllers+",", ",memory,"):
			base, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		// In a container the path may be the host's, and what is mounted is the
		// container's own: then all but the root is missing.
		for path = filepath.Clean("/" + path); ; path = filepath.Dir(path) {
			if n := number(filepath.Join(root, base, path, file)); n > 0 && (least == 0 || n < least) {
				least = n
			}
			if path == "/" {
				break
			}
		}
	}
	return least
}

// number reads a file of one number; zero: there is none. Version 1 says "none"
// by a number that is larger than any memory.
func number(file string) int64 {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil || n < 0 || n > 1<<60 {
		return 0
	}
	return n
}

// machineMemory is the memory of the machine; zero: not known.
func machineMemory(root string) int64 {
	b, err := os.ReadFile(filepath.Join(root, "proc/meminfo"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && fields[0] == "MemTotal:" {
			if n, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
				return n << 10
			}
		}
	}
	return 0
}
