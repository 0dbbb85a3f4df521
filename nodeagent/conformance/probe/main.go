// The language's runtime would keep cgroup files open.
//
//go:debug containermaxprocs=0

// Command probe runs inside the containers of the conformance suite and tells
// what it finds there, one key=value a line: how it is confined, what it sees,
// what it is let do. It is linked statically, so that an image needs nothing
// else.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

// End is the line after the last fact.
const end = "end=end"

func main() {
	early := lookEarly() // before anything opens a file descriptor
	if len(os.Args) < 2 {
		fmt.Println("no verb")
		os.Exit(2)
	}
	args := os.Args[2:]
	switch os.Args[1] {
	case "facts": // of the areas named, or of all
		tell(early, args)
	case "hold": // the facts, then sleep until SIGTERM
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		tell(early, args)
		<-c
	case "exit":
		n, _ := strconv.Atoi(args[0])
		os.Exit(n)
	case "cat":
		_, _ = io.Copy(os.Stdout, os.Stdin)
	case "try": // each argument is verb:path; says how it went
		for _, a := range args {
			verb, path, _ := strings.Cut(a, ":")
			say("try."+verb+"."+path, try(verb, path))
		}
		fmt.Fprintln(out, end)
		out.Flush()
	case "eat":
		eat()
	case "bomb":
		bomb()
	case "orphan":
		orphan()
	case "daemon":
		daemon()
	case "litter":
		litter(args[0])
	case "spoof":
		spoof(args[0], args[1:])
	case "steal":
		steal()
	default:
		fmt.Println("unknown verb", os.Args[1])
		os.Exit(2)
	}
}

var out = bufio.NewWriterSize(os.Stdout, 1<<16)

// say prints one fact; a value is one line.
func say(key string, value any) {
	v := strings.TrimRight(fmt.Sprint(value), "\n\t ")
	fmt.Fprintf(out, "%s=%s\n", strings.ReplaceAll(key, "=", "%3D"), strings.ReplaceAll(v, "\n", "|"))
}

func tell(early []func(), areas []string) {
	all := []struct {
		name string
		tell func()
	}{
		{"process", func() {
			for _, f := range early {
				f()
			}
			process()
		}},
		{"mounts", mounts},
		{"paths", paths},
		{"devices", devices},
		{"network", networks},
		{"sysctls", sysctls},
		{"ipc", ipc},
		{"calls", calls},
		{"numbers", numbers},
	}
	for _, a := range all {
		for _, want := range areas {
			if want == a.name || want == "all" {
				a.tell()
			}
		}
	}
	fmt.Fprintln(out, end)
	out.Flush()
}

// why is an error's number, which no wording hides, or ok.
func why(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case asErrno(err, &errno):
		return name(errno)
	}
	return err.Error()
}

// text is a small file in one line; an error's name begins with an exclamation mark.
func text(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "!" + why(err)
	}
	return strings.TrimSpace(string(b))
}
