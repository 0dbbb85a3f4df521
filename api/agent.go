package api

import (
	"context"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Agent is the third seam: the pods of one node. All methods are safe for
// concurrent use and idempotent by pod UID. A pod is named by its UID; NotFound
// when the node does not have it.
type Agent interface { //nolint:interfacebloat // what a kubelet does
	// Start makes the node run pods, next to those it finds bound to it in
	// Objects. It returns when they are accepted; how they fare is observed.
	// Pods whose UID is already known are left as they are.
	Start(ctx context.Context, pods []*corev1.Pod) error

	// Stop ends a pod: SIGTERM, after grace SIGKILL. It returns when the stop
	// is accepted. A pod that is not there is no error.
	Stop(ctx context.Context, pod types.UID, grace time.Duration) error

	// List answers with the status of every pod on the node.
	List(ctx context.Context) ([]PodState, error)

	// Observe streams the state of each pod: first what is there, then every
	// change, in order per pod. A pod's last state has Gone set. The channel
	// is closed with ctx, or when the reader is too slow.
	Observe(ctx context.Context) (<-chan PodState, error)

	// Logs opens a container's log; each read delivers whole lines. With
	// Follow it ends when the container's pod is gone or ctx is done. The
	// caller closes it.
	Logs(ctx context.Context, pod types.UID, o LogOptions) (io.ReadCloser, error)

	// Exec runs a command in a container until it ends or ctx is done and
	// answers with its exit code. A command whose ctx is done first is hung up.
	// A read of o.Stdin that is going on at the end is not waited for.
	Exec(ctx context.Context, pod types.UID, o ExecOptions) (exitCode int, err error)

	// Attach passes on what a container's first process writes from now on, and
	// what is written to it, until it ends (then the error is nil), what is read
	// of o.Stdin has ended and nothing can be typed any more, or ctx is done. The
	// process goes on. BadRequest when the container does not run.
	Attach(ctx context.Context, pod types.UID, o AttachOptions) error

	// Forward connects to a TCP port as a process of the pod would. The caller
	// closes the connection; it ends with ctx too. BadRequest when the pod does
	// not run, ServiceUnavailable when nobody takes the connection.
	Forward(ctx context.Context, pod types.UID, port uint16) (Conn, error)

	// SetFrozen stops a pod's processes where they are, or lets them go on. A
	// round is what a pod is frozen in; later ones are larger. To thaw ends the
	// round and all before it, and is no error when the pod runs: when it
	// returns nil the processes run, and go on until a later round. To freeze is
	// a Conflict when the round was ended, and while something else needs the
	// pod to run; a MethodNotSupported when its runtime can't. A pod that ends,
	// in which a command is executed, or which somebody is attached or connected
	// to, is thawed for it.
	SetFrozen(ctx context.Context, pod types.UID, round uint64, frozen bool) error

	// Stats answers with the node's and its pods' use of resources now.
	Stats(ctx context.Context) (NodeStats, error)
}

// PodState is a pod on a node.
type PodState struct {
	UID       types.UID        `json:"uid"`
	Namespace string           `json:"namespace"`
	Name      string           `json:"name"`
	Status    corev1.PodStatus `json:"status"`
	Gone      bool             `json:"gone,omitempty"`
}

// LogOptions select log lines.
type LogOptions struct {
	Container  string    `json:"container,omitempty"` // "" is the only or the first one
	Follow     bool      `json:"follow,omitempty"`
	Previous   bool      `json:"previous,omitempty"` // of the container's instance before this one
	Tail       int       `json:"tail"`               // last so many lines; negative is all
	Since      time.Time `json:"since,omitzero"`
	Timestamps bool      `json:"timestamps,omitempty"` // put RFC 3339 with nanoseconds and a space before each line
}

// ExecOptions say what to run.
type ExecOptions struct {
	Container string
	Command   []string
	TTY       bool      // give it a terminal, of which all output is Stdout
	Stdin     io.Reader // nil is empty
	Stdout    io.Writer // nil discards
	Stderr    io.Writer
	Resize    <-chan TerminalSize // of the terminal; nil is never, closing it is no news
}

// AttachOptions say what to attach to.
type AttachOptions struct {
	Container string
	Stdin     io.Reader // nil: nothing is typed
	Stdout    io.Writer // nil discards
	Stderr    io.Writer
	Resize    <-chan TerminalSize // as ExecOptions has it
}

// TerminalSize is the size of a terminal in characters.
type TerminalSize struct {
	Width  uint16
	Height uint16
}

// Conn is a connection whose two directions end one by one.
type Conn interface {
	io.ReadWriteCloser
	// CloseWrite says that nothing more will be written.
	CloseWrite() error
}

// NodeStats is the use of resources at one moment.
type NodeStats struct {
	Time       time.Time  `json:"time"`
	CPUSeconds float64    `json:"cpuSeconds"` // cumulative
	Memory     uint64     `json:"memory"`     // working set, bytes
	Pods       []PodStats `json:"pods"`
}

// PodStats is one pod's use of resources.
type PodStats struct {
	UID        types.UID        `json:"uid"`
	Namespace  string           `json:"namespace"`
	Name       string           `json:"name"`
	Containers []ContainerStats `json:"containers"`
}

// ContainerStats is one container's use of resources.
type ContainerStats struct {
	Name       string  `json:"name"`
	CPUSeconds float64 `json:"cpuSeconds"` // cumulative
	Memory     uint64  `json:"memory"`     // working set, bytes
}
