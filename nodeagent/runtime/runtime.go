// Package runtime is what the pod life cycle asks of a container engine on one
// node: sandboxes (a pod's namespaces, network and cgroup, held by a pause
// process), containers in them, and images. nodeagent/engine implements it over
// containerd, runtime/fake in memory.
package runtime

import (
	"context"
	"io"
	"net"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
)

// Runtime runs sandboxes and containers. All methods are safe for concurrent
// use. Errors for an id that does not exist are NotFound of apimachinery.
type Runtime interface {
	// StartSandbox makes a pod's sandbox: namespaces, pause process, network
	// (unless HostNetwork), pod cgroup. On an error nothing is left.
	StartSandbox(ctx context.Context, s SandboxSpec) (Sandbox, error)

	// RemoveSandbox kills and removes a sandbox with all its containers,
	// network and cgroup. One that is not there is no error.
	RemoveSandbox(ctx context.Context, id string) error

	// StartContainer creates and starts a container. The image must be there.
	// On an error nothing is left; a StartError's Reason tells the pod status
	// what kind of fault it was.
	StartContainer(ctx context.Context, c ContainerSpec) (Container, error)

	// Signal sends a signal to the container's first process. One that has
	// exited is no error.
	Signal(ctx context.Context, id string, sig syscall.Signal) error

	// RemoveContainer kills and removes a container; its log file stays. One
	// that is not there is no error.
	RemoveContainer(ctx context.Context, id string) error

	// List answers with all sandboxes of this node and their containers,
	// running or exited: what a restarted agent adopts.
	List(ctx context.Context) ([]Sandbox, error)

	// Events streams exits until ctx is done. Exits during a gap (a restart
	// of the engine) are delivered after it; an exit may come twice.
	Events(ctx context.Context) <-chan Exit

	// Exec runs a command in a running container.
	Exec(ctx context.Context, id string, e Exec) (exitCode int, err error)
}

// Images are the node's images.
type Images interface {
	// Ensure makes the image available by the policy (Always, IfNotPresent,
	// Never) and answers with what it holds. A PullError's Reason is the
	// waiting reason of the container (ErrImagePull, ErrImageNeverPull,
	// InvalidImageName). Of the logins those that are for the image are tried one after
	// the other.
	Ensure(ctx context.Context, ref string, policy corev1.PullPolicy, logins ...Login) (Image, error)

	// Import loads an OCI or Docker archive and answers with the names.
	Import(ctx context.Context, archive io.Reader) ([]string, error)

	// List answers with the images as a node's status shows them.
	List(ctx context.Context) ([]corev1.ContainerImage, error)

	// Remove forgets an image; its content goes when nothing else uses it.
	Remove(ctx context.Context, ref string) error
}

// Login is who one is at a registry of images, or in a part of it.
type Login struct {
	// Scope is host, host:port or either with /path; each label of the host may be a
	// pattern, as in *.example.com.
	Scope          string
	User, Password string
}

// Stats reads a container's use of resources from its cgroup.
type Stats interface {
	Stats(ctx context.Context, id string) (cpuSeconds float64, memory uint64, err error)
}

// Listener is a runtime that sees when a container listens.
type Listener interface {
	// Listening returns nil as soon as a process of the container listens on
	// the TCP port. Any other error than ctx's cause means that it cannot be
	// seen, or not any more; then the port has to be tried.
	Listening(ctx context.Context, container string, port int32) error
}

// Freezer is a runtime that can stop a container's processes where they are:
// they keep their memory and get no processor. A frozen container can be
// removed; one that has ended can be thawed, so that the next one in its sandbox
// can run. Each is no error when it is so already. errors.ErrUnsupported is a
// container that cannot be frozen at all.
type Freezer interface {
	Freeze(ctx context.Context, container string) error
	Thaw(ctx context.Context, container string) error
	// Frozen reports whether the container is to be still.
	Frozen(ctx context.Context, container string) (bool, error)
}

// Attacher is a runtime that can attach to the first process of a container.
type Attacher interface {
	// Attach passes on what the container writes from now on, and what is written
	// to it, until it ends or ctx is done; see Attach for the end of its Stdin.
	// Output is held up while it is not taken. NotFound when it does not run.
	Attach(ctx context.Context, container string, a Attach) error
}

// Dialer is a runtime that reaches what listens in a sandbox.
type Dialer interface {
	// DialIn connects to a TCP address as a process of the sandbox would.
	DialIn(ctx context.Context, sandbox, address string) (net.Conn, error)
}

// SandboxSpec says what sandbox to make.
type SandboxSpec struct {
	// Owner is the function whose replica the pod is: what one leaves as it was,
	// another one may get. "" is none.
	Owner           string
	UID             types.UID
	Namespace, Name string // of the pod
	Hostname        string
	HostNetwork     bool
	NoNetwork       bool   // but the loopback
	Segment         string // whose broadcast and multicast it hears, with others of its node; "" is none
	HostPID         bool
	HostIPC         bool
	SharePID        bool // its containers are in the process namespace of the sandbox
	Class           Class
	Labels          map[string]string // kept, for adoption
	Resources       Resources         // of the whole pod; zero is no limit
	Sysctls         map[string]string
}

// Class says which of a node's runtimes runs a pod, where there are several.
type Class string

// The classes. The zero value is Runc.
const (
	Runc Class = "runc"    // containerd and runc, for every kind of pod
	Fast Class = "podsnap" // the fast runtime: see package fast for what it does not do
)

// Sandbox is a pod's sandbox as it is.
type Sandbox struct {
	ID              string
	UID             types.UID
	Namespace, Name string
	IP              string // "" with HostNetwork and NoNetwork
	IP6             string // the one in IPv6 beside it; "" is none
	Pid             int    // of the process that holds it, such as a pause process; 0 when it is dead
	CreatedAt       time.Time
	Labels          map[string]string
	Containers      []Container // filled by List, oldest attempt first
	// Dir is a folder in memory for small files of the pod, such as its
	// /etc/hosts; it goes with the sandbox. "" is none.
	Dir string
}

// IPs are the sandbox's addresses.
func (s *Sandbox) IPs() (out []string) {
	for _, ip := range []string{s.IP, s.IP6} {
		if ip != "" {
			out = append(out, ip)
		}
	}
	return out
}

// ContainerSpec says what container to run.
type ContainerSpec struct {
	Sandbox    string // its ID
	Name       string
	Attempt    int // 0 for the first instance, 1 after the first restart, …
	Image      string
	Command    []string // nil is the image's entrypoint
	Args       []string // nil is the image's command, unless Command is set
	Env        []string // "K=v", on top of the image's
	WorkingDir string   // "" is the image's
	Mounts     []Mount
	Resources  Resources
	Security   Security
	LogPath    string // file of the container's log, CRI format, rotated
	Labels     map[string]string
	Stdin      bool   // what is attached can write to it; otherwise it reads nothing
	TTY        bool   // its standard streams are a terminal
	Target     string // the container whose process namespace it shares; "" is its own
}

// Mount binds a host path into a container.
type Mount struct {
	Source, Target string
	ReadOnly       bool
	Propagation    string // "" is rprivate
}

// Resources are cgroup limits; zero values are unlimited.
type Resources struct {
	CPUShares int64 // v1 shares: 1024 a core; v2 weight is computed from it
	CPUQuota  int64 // microseconds in each period of 100 ms
	Memory    int64 // bytes, swap included
	Pids      int64
}

// Security is how a container is confined. The zero value is the hardened
// default: image's user, no new privileges, no capabilities but those added,
// default seccomp profile, masked and read-only paths of /proc and /sys.
type Security struct {
	User                *int64 // nil is the image's
	Group               *int64
	Supplemental        []int64
	OwnGroups           bool // none that the image knows the user in
	RunAsNonRoot        bool // refuse an image that would run as uid 0
	ReadOnlyRoot        bool
	Privileged          bool
	AllowEscalation     bool     // do not set no_new_privs
	AddCapabilities     []string // "NET_BIND_SERVICE"; "ALL"
	DropCapabilities    []string
	DefaultCapabilities bool // start from the engine's usual set (plain pods) and not from none (functions)
	SeccompUnconfined   bool
}

// ContainerState is where a container stands.
type ContainerState string

// The states of a container.
const (
	Running ContainerState = "running"
	Exited  ContainerState = "exited"
)

// Container is a container as it is.
type Container struct {
	ID         string
	Sandbox    string
	Name       string
	Attempt    int
	Image      string // as asked for
	ImageID    string // digest
	State      ContainerState
	Pid        int
	StartedAt  time.Time
	FinishedAt time.Time
	ExitCode   int
	Signal     int
	OOMKilled  bool
	Frozen     bool // its processes are stopped; List does not tell, a Freezer does
	LogPath    string
	Labels     map[string]string
	Stdin, TTY bool // as in its ContainerSpec
}

// Exit is the end of a container, or of a sandbox's pause process (Container
// empty).
type Exit struct {
	Sandbox   string
	Container string
	ExitCode  int
	OOMKilled bool
	At        time.Time
}

// Exec says what to run in a container.
type Exec struct {
	Command        []string
	TTY            bool // give it a terminal; all output is Stdout
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan api.TerminalSize
	// Hangup is how long the process has after SIGHUP when ctx ends before it;
	// 0 kills it at once.
	Hangup time.Duration
}

// Attach says what to attach to a container's first process, which was started
// with Stdin and TTY as they are said here.
type Attach struct {
	TTY            bool
	Stdin          io.Reader // nil: nothing is written to it
	Stdout, Stderr io.Writer
	Resize         <-chan api.TerminalSize
	// Once has the process's input end with Stdin, for good; output goes on. Without
	// it, or with a terminal, the end of Stdin ends the attachment alone.
	Once bool
}

// Image is what an image holds.
type Image struct {
	Ref    string // full name, with registry and tag
	ID     string // digest of the manifest
	Size   int64
	Config ImageConfig
}

// ImageConfig is the part of an image's configuration that a pod needs.
type ImageConfig struct {
	User       string
	Env        []string
	Entrypoint []string
	Cmd        []string
	WorkingDir string
}

// StartError is a container that could not be started.
type StartError struct {
	Reason string // CreateContainerConfigError, CreateContainerError, RunContainerError, StartError
	Err    error
}

func (e *StartError) Error() string { return e.Err.Error() }
func (e *StartError) Unwrap() error { return e.Err }

// PullError is an image that could not be had.
type PullError struct {
	Reason string // ErrImagePull, ErrImageNeverPull, InvalidImageName
	Err    error
}

func (e *PullError) Error() string { return e.Err.Error() }
func (e *PullError) Unwrap() error { return e.Err }
