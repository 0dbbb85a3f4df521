package main

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// refused is a flag that faas-cli has and this tool can't honour. Its value is
// the reason, and what to do instead; "unknown flag" would say neither.
type refused string

func (refused) String() string     { return "" }
func (refused) Type() string       { return "string" }
func (r refused) Set(string) error { return errors.New(string(r)) }

// refuse adds such a flag; a switch is one that takes no value.
func refuse(f *pflag.FlagSet, name, shorthand string, isSwitch bool, why string) {
	f.VarP(refused(why), name, shorthand, "not supported: "+why)
	fl := f.Lookup(name)
	fl.Hidden = true
	if isSwitch {
		fl.NoOptDefVal = "true"
	}
}

// only is a flag of which this tool can do one value.
type only struct{ value, why string }

func (o *only) String() string { return o.value }
func (o *only) Type() string   { return "string" }
func (o *only) Set(s string) error {
	if s != o.value {
		return errors.New(o.why)
	}
	return nil
}

// tagFlag is --tag of the commands that make, send or use an image.
func tagFlag(f *pflag.FlagSet) {
	f.Var(&only{"latest", "the tag can't be made of git's state: write `image: NAME:${TAG:-latest}` in stack.yaml and set TAG, such as TAG=$(git rev-parse --short HEAD)"},
		"tag", "the image's tag is the one that stack.yaml gives; other tags are not made up")
	f.Lookup("tag").Hidden = true
}

// buildFlags are how functions are built.
type buildFlags struct{ parallel int }

func (b *buildFlags) add(f *pflag.FlagSet) {
	f.IntVar(&b.parallel, "parallel", 1, "how many functions to build at once")
	f.Bool("no-cache", false, "accepted: each image is made from the source, there is no cache of layers")
	tagFlag(f)
	const noDockerfile = "there is no Dockerfile that could read it; give it to the function at run time with --env, or build the image elsewhere and set skip_build"
	refuse(f, "build-arg", "b", false, noDockerfile)
	refuse(f, "build-option", "", false, noDockerfile)
	refuse(f, "build-label", "", false, "images carry no labels of one's own; use labels in stack.yaml, which the function carries")
	refuse(f, "copy-extra", "", false, "name the folder under configuration.copy in stack.yaml")
	refuse(f, "squash", "", true, "an image has few layers already; leave it out")
	refuse(f, "shrinkwrap", "", true, "no folder is made for a build; `faas build` leaves the image itself in the folder build")
	refuse(f, "disable-stack-pull", "", true, "templates are part of this tool and never pulled; leave it out")
}

func (b *buildFlags) check() error {
	if b.parallel < 1 {
		return usagef("--parallel %d: it must be 1 or more", b.parallel)
	}
	return nil
}

// platformsFlag is --platforms of publish.
func platformsFlag(f *pflag.FlagSet) {
	own := "linux/" + runtime.GOARCH
	f.Var(&only{own, "images are built for " + own + " only; run it on a machine of the other kind, or build the image elsewhere and set skip_build"}, "platforms", "platform to build for; it can only be this machine's")
	refuse(f, "extra-tag", "", false, "an image has one name: add a second entry to stack.yaml")
	refuse(f, "remote-builder", "", false, "images are built on this machine; leave it out")
	refuse(f, "reset-qemu", "", true, "nothing is emulated; leave it out")
}

// locked is a writer for several at a time.
type locked struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// logFormats are what -o may be for logs, beside json; those of faas-cli.
var logFormats = []string{"text", "plain", "keyvalue"}

// formats are what -o may be for a command.
func formats(cmd *cobra.Command) []string {
	out := []string{"json", "yaml", "wide", "name"}
	if cmd != nil && cmd.Name() == "logs" {
		out = append([]string{"json"}, logFormats...)
	}
	return out
}

func orList(s []string) string {
	return fmt.Sprintf("%s or %s", strings.Join(s[:len(s)-1], ", "), s[len(s)-1])
}
