// Command probe is what the engine's tests run inside containers.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Println("no verb")
		os.Exit(2)
	}
	args := os.Args[2:]
	switch os.Args[1] {
	case "exit":
		n, _ := strconv.Atoi(args[0])
		os.Exit(n)
	case "show":
		show()
	case "print": // lines, each as long as the second argument
		n, _ := strconv.Atoi(args[0])
		size, _ := strconv.Atoi(args[1])
		w := bufio.NewWriter(os.Stdout)
		for i := range n {
			fmt.Fprintf(w, "line %d %s\n", i, strings.Repeat("x", size))
		}
		w.Flush()
	case "eat": // memory, until killed
		var hold [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			hold = append(hold, b)
		}
	case "cat":
		io.Copy(os.Stdout, os.Stdin)
	case "sleep":
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGUSR1)
		<-c
	case "get":
		get(args[0])
	case "read": // files and folders
		for _, a := range args {
			if all, err := os.ReadDir(a); err == nil {
				for _, e := range all {
					i, _ := os.Lstat(a + "/" + e.Name())
					to, _ := os.Readlink(a + "/" + e.Name())
					fmt.Println(a+"/"+e.Name(), i.Mode(), to)
				}
				continue
			}
			b, err := os.ReadFile(a)
			fmt.Printf("%s%v\n", b, err)
		}
	case "write": // a file, and say how it went
		fmt.Println(os.WriteFile(args[0], []byte("x"), 0o644))
	case "serve":
		serve()
	default:
		fmt.Println("unknown verb", os.Args[1])
		os.Exit(2)
	}
}

// serve answers HTTP requests; each path is a line of its output. SIGTERM ends it with 0.
func serve() {
	l, err := net.Listen("tcp", ":8080")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	go func() { <-c; os.Exit(0) }()
	http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(r.URL.Path)
		fmt.Fprintln(os.Stderr, "err"+r.URL.Path)
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "hello %s", host)
	}))
}

func get(url string) {
	c := http.Client{Timeout: 5 * time.Second}
	r, err := c.Get(url)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	b, _ := io.ReadAll(r.Body)
	fmt.Print(string(b))
}

// show prints how the process is confined, one key=value a line.
func show() {
	fmt.Println("args=" + strings.Join(os.Args[1:], ","))
	for _, e := range os.Environ() {
		fmt.Println("env." + e)
	}
	cwd, _ := os.Getwd()
	host, _ := os.Hostname()
	groups, _ := os.Getgroups()
	fmt.Printf("cwd=%s\nhostname=%s\nuid=%d\ngid=%d\ngroups=%v\npid=%d\n", cwd, host, os.Getuid(), os.Getgid(), groups, os.Getpid())
	status, _ := os.ReadFile("/proc/self/status")
	for _, l := range strings.Split(string(status), "\n") {
		k, v, _ := strings.Cut(l, ":")
		fmt.Printf("status.%s=%s\n", k, strings.TrimSpace(v))
	}
	var lim syscall.Rlimit
	syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim)
	fmt.Printf("nofile=%d\n", lim.Max)
	for _, p := range []string{
		"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes", "/sys/fs/cgroup/pids/pids.max",
		"/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.shares",
		"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.swap.max", "/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu.weight",
		"/proc/self/oom_score_adj", "/etc/hostname", "/etc/hosts", "/data/file",
	} {
		b, err := os.ReadFile(p)
		if err != nil {
			b = []byte("!" + err.Error())
		}
		fmt.Printf("file.%s=%s\n", p, strings.ReplaceAll(strings.TrimSpace(string(b)), "\n", "|"))
	}
	for _, p := range []string{"/proc/keys", "/proc/timer_list", "/proc/interrupts"} {
		b, err := os.ReadFile(p)
		fmt.Printf("masked.%s=%d %v\n", p, len(b), err)
	}
	fmt.Printf("write.sysctl=%v\n", os.WriteFile("/proc/sys/kernel/hostname", []byte("x"), 0o644))
	fmt.Printf("write.root=%v\n", os.WriteFile("/written", []byte("x"), 0o644))
	fmt.Printf("write.shm=%v\n", os.WriteFile("/dev/shm/written", []byte("x"), 0o644))
	fmt.Printf("mount=%v\n", syscall.Mount("none", "/data", "tmpfs", 0, ""))
	_, _, errno := syscall.Syscall(syscall.SYS_UNSHARE, syscall.CLONE_NEWUSER, 0, 0)
	fmt.Printf("unshare=%v\n", errno)
	_, _, errno = syscall.Syscall(425, 1, 0, 0) // io_uring_setup
	fmt.Printf("io_uring=%v\n", errno)
	fmt.Printf("mknod=%v\n", syscall.Mknod("/dev/shm/sda", syscall.S_IFBLK|0o600, 8<<8))
	ns, _ := os.ReadDir("/proc/self/ns")
	for _, n := range ns {
		l, _ := os.Readlink("/proc/self/ns/" + n.Name())
		fmt.Printf("ns.%s=%s\n", n.Name(), l)
	}
}
