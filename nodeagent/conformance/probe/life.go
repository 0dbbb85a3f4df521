package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// eat takes memory until it is killed.
func eat() {
	for hold := [][]byte{}; ; {
		b := make([]byte, 1<<20)
		for i := range b {
			b[i] = 1
		}
		hold = append(hold, b)
		runtime.KeepAlive(hold)
	}
}

// bomb makes processes that wait, until it can make no more or has made 2000.
func bomb() {
	wait := [2]int{}
	if err := unix.Pipe2(wait[:], unix.O_CLOEXEC); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	made := 0
	for made < 2000 {
		pid, errno := forkWait(wait[0])
		if errno != 0 {
			say("bomb.error", name(errno))
			break
		}
		_ = pid
		made++
	}
	say("bomb.made", made)
	fmt.Fprintln(out, end)
	out.Flush()
}

// orphan has a grandchild whose parent ends, and tells who its new parent is
// and that the end of it is seen.
func orphan() {
	self, _ := os.Executable()
	cmd := exec.Command(self, "daemon", "quick")
	err := cmd.Run()
	say("orphan.parent", why(err))
	var w syscall.WaitStatus
	pid, err := syscall.Wait4(-1, &w, 0, nil)
	say("orphan.reaped", fmt.Sprintf("%v %s %d", pid > 0, why(err), w.ExitStatus()))
	fmt.Fprintln(out, end)
	out.Flush()
}

// daemon leaves a process behind in a session of its own, deaf to SIGTERM and
// SIGHUP, and ends. "quick": the process ends with code 9.
func daemon() {
	self, _ := os.Executable()
	if len(os.Args) > 2 && os.Args[2] == "stay" {
		signal.Ignore(syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT)
		<-time.After(time.Hour)
		return
	}
	args := []string{"daemon", "stay"}
	if len(os.Args) > 2 && os.Args[2] == "quick" {
		args = []string{"exit", "9"}
	}
	cmd := exec.Command(self, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// steal looks, until SIGTERM, for processes whose program is not this one: a
// runtime that is just entering the container. It tries to open such a program
// for writing, by way of a descriptor that outlives the process.
func steal() {
	own, _ := os.Stat("/proc/self/exe")
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	say("steal", "ready")
	out.Flush()
	seen, wrote, fds := 0, 0, 0
	for {
		select {
		case <-c:
			say("steal.seen", seen > 0)
			say("steal.wrote", wrote)
			say("steal.fds", fds)
			fmt.Fprintln(out, end)
			out.Flush()
			return
		default:
		}
		entries, _ := os.ReadDir("/proc")
		for _, e := range entries {
			if e.Name() == "1" || strings.Trim(e.Name(), "0123456789") != "" {
				continue
			}
			fd, err := unix.Open("/proc/"+e.Name()+"/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
			if err != nil {
				continue
			}
			var st unix.Stat_t
			mine := own.Sys().(*syscall.Stat_t)
			if unix.Fstat(fd, &st) == nil && (st.Dev != mine.Dev || st.Ino != mine.Ino) {
				seen++
				if w, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_WRONLY|unix.O_CLOEXEC, 0); err == nil {
					wrote++
					unix.Close(w)
				}
				// Directories that a process on its way in holds open lead out.
				links, _ := os.ReadDir("/proc/" + e.Name() + "/fd")
				for _, l := range links {
					if d, err := unix.Open("/proc/"+e.Name()+"/fd/"+l.Name(), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
						fds++
						unix.Close(d)
					}
				}
			}
			unix.Close(fd)
		}
	}
}
