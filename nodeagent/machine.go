package nodeagent

import (
	"bufio"
	"bytes"
	"net"
	"os"
	goruntime "runtime"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func quantity(s string) resource.Quantity { return resource.MustParse(s) }

func machineOS() (system, arch string) { return goruntime.GOOS, goruntime.GOARCH }

// machineCapacity is what the machine has: CPUs, memory (so many bytes), and the
// disk that dir is on.
func machineCapacity(dir string, memory int64) corev1.ResourceList {
	out := corev1.ResourceList{corev1.ResourceCPU: *resource.NewQuantity(int64(goruntime.NumCPU()), resource.DecimalSI)}
	out[corev1.ResourceMemory] = *resource.NewQuantity(memory, resource.BinarySI)
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) == nil {
		out[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(int64(fs.Blocks)*fs.Bsize, resource.BinarySI)
	}
	return out
}

// meminfo is the machine's memory and what of it is free to be used, in bytes.
func meminfo() (total, available int64) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(b)) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		kib, _ := strconv.ParseInt(words[1], 10, 64)
		switch words[0] {
		case "MemTotal:":
			total = kib << 10
		case "MemAvailable:":
			available = kib << 10
		}
	}
	return total, available
}

// machineUse is the CPU time spent since boot, in seconds, and the memory that
// is in use, in bytes.
func machineUse() (cpu float64, memory uint64) {
	total, available := meminfo()
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, uint64(max(total-available, 0))
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	words := strings.Fields(string(line))
	const tick = 100 // USER_HZ, the same on all architectures of Linux that matter
	for i, w := range words {
		if i == 0 || i == 4 || i == 5 || i > 8 { // the name, idle, iowait, guests (counted in user)
			continue
		}
		n, _ := strconv.ParseFloat(w, 64)
		cpu += n / tick
	}
	return cpu, uint64(max(total-available, 0))
}

// machineInfo says what machine this is. It is asked once: no process sees it
// change.
var machineInfo = sync.OnceValue(func() corev1.NodeSystemInfo {
	system, arch := machineOS()
	return corev1.NodeSystemInfo{
		MachineID: word("/etc/machine-id"), SystemUUID: word("/sys/class/dmi/id/product_uuid"),
		BootID: word("/proc/sys/kernel/random/boot_id"), KernelVersion: word("/proc/sys/kernel/osrelease"),
		OperatingSystem: system, Architecture: arch, OSImage: osImage(),
	}
})

func word(path string) string {
	b, _ := os.ReadFile(path)
	return strings.TrimSpace(string(b))
}

func osImage() string {
	f, err := os.Open("/etc/os-release")
	if err != nil {
		return ""
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if v, ok := strings.CutPrefix(sc.Text(), "PRETTY_NAME="); ok {
			return strings.Trim(v, `"`)
		}
	}
	return ""
}

// firstAddress is the machine's first IPv4 address that others can reach, or
// the loopback's.
func firstAddress() string {
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return n.IP.String()
		}
	}
	return "127.0.0.1"
}
