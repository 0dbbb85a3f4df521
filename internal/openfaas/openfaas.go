// Package openfaas is the wire format of the OpenFaaS gateway API and a client
// for it. The server side is gateway/dialect; both use the types of this
// package.
package openfaas

import "time"

// DefaultNamespace is the namespace that a request means when it names none.
// Existing clients hard-code it.
const DefaultNamespace = "openfaas-fn"

// Headers of invocations.
const (
	HeaderCallID      = "X-Call-Id"          // of one invocation; the caller's own is kept
	HeaderStartTime   = "X-Start-Time"       // Unix time in nanoseconds, decimal
	HeaderDuration    = "X-Duration-Seconds" // decimal seconds
	HeaderCallbackURL = "X-Callback-Url"     // where the answer of an asynchronous call is posted
	HeaderInternal    = "X-OpenFaaS-Internal"
)

// FunctionDeployment asks for a function: POST and PUT /system/functions.
type FunctionDeployment struct {
	Service     string            `json:"service"` // the function's name
	Image       string            `json:"image"`
	Namespace   string            `json:"namespace,omitempty"`
	EnvProcess  string            `json:"envProcess,omitempty"`
	EnvVars     map[string]string `json:"envVars,omitempty"`
	Constraints []string          `json:"constraints,omitempty"`
	Secrets     []string          `json:"secrets,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Limits      *Resources        `json:"limits,omitempty"`
	Requests    *Resources        `json:"requests,omitempty"`

	ReadOnlyRootFilesystem bool `json:"readOnlyRootFilesystem,omitempty"`
}

// Resources are Kubernetes quantities, echoed as they were written.
type Resources struct {
	Memory    string `json:"memory,omitempty"`
	CPU       string `json:"cpu,omitempty"`
	NvidiaGPU string `json:"nvidia.com/gpu,omitempty"`
	AMDGPU    string `json:"amd.com/gpu,omitempty"`
	IntelGPU  string `json:"intel.com/gpu,omitempty"`
}

// FunctionStatus is a function as the gateway shows it.
type FunctionStatus struct {
	Name        string            `json:"name"`
	Image       string            `json:"image"`
	Namespace   string            `json:"namespace,omitempty"`
	EnvProcess  string            `json:"envProcess,omitempty"`
	EnvVars     map[string]string `json:"envVars,omitempty"`
	Constraints []string          `json:"constraints,omitempty"`
	Secrets     []string          `json:"secrets,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Limits      *Resources        `json:"limits,omitempty"`
	Requests    *Resources        `json:"requests,omitempty"`

	ReadOnlyRootFilesystem bool `json:"readOnlyRootFilesystem,omitempty"`

	InvocationCount   float64   `json:"invocationCount,omitempty"`
	Replicas          uint64    `json:"replicas,omitempty"`          // desired
	AvailableReplicas uint64    `json:"availableReplicas,omitempty"` // observed
	CreatedAt         time.Time `json:"createdAt,omitzero"`
	Usage             *Usage    `json:"usage,omitempty"` // only when asked for

	// Additions to the API, which other clients pass over.
	Reason          string       `json:"reason,omitempty"`          // why replicas don't come up, one word; "": nothing stands in the way
	Message         string       `json:"message,omitempty"`         // of Reason
	Restarts        uint64       `json:"restarts,omitempty"`        // of the containers of the replicas there are
	LastTermination *Termination `json:"lastTermination,omitempty"` // the newest of those
	Updating        bool         `json:"updating,omitempty"`        // what serves is not, or not only, what was deployed last
}

// Termination is how a container of a replica has ended.
type Termination struct {
	Instance string    `json:"instance"` // the replica's name
	Reason   string    `json:"reason"`   // OOMKilled, Error, Completed, …
	ExitCode int       `json:"exitCode"`
	Time     time.Time `json:"time,omitzero"`
}

// Usage is what all replicas of a function use now.
type Usage struct {
	CPU              float64 `json:"cpu,omitempty"`              // thousandths of a core
	TotalMemoryBytes float64 `json:"totalMemoryBytes,omitempty"` // working set
	FrozenReplicas   int     `json:"frozenReplicas,omitempty"`   // whose processes are stopped, because they are idle
}

// DeleteRequest is the body of DELETE /system/functions.
type DeleteRequest struct {
	FunctionName string `json:"functionName"`
	Namespace    string `json:"namespace,omitempty"`
}

// ScaleRequest is the body of POST /system/scale-function/{name}.
type ScaleRequest struct {
	ServiceName string `json:"serviceName"`
	Namespace   string `json:"namespace,omitempty"`
	Replicas    uint64 `json:"replicas"`
}

// Namespace is a namespace for functions.
type Namespace struct {
	Name        string            `json:"name"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Secret is a secret for functions. Value and RawValue are never in an answer.
type Secret struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace,omitempty"`
	Value     string `json:"value,omitempty"`
	RawValue  []byte `json:"rawValue,omitempty"` // instead of Value; base64 on the wire
}

// Info describes the platform: GET /system/info.
type Info struct {
	Provider Provider `json:"provider"`
	Version  Version  `json:"version"` // of the gateway
	Arch     string   `json:"arch"`
}

// Provider is what runs the functions.
type Provider struct {
	Name          string  `json:"provider"`
	Orchestration string  `json:"orchestration"`
	Version       Version `json:"version"`
}

// Version is a build.
type Version struct {
	Release       string `json:"release"`
	SHA           string `json:"sha"`
	CommitMessage string `json:"commit_message,omitempty"`
}

// LogLine is one line that a function wrote.
type LogLine struct {
	Name      string    `json:"name"`
	Namespace string    `json:"namespace"`
	Instance  string    `json:"instance"` // the replica's name
	Timestamp time.Time `json:"timestamp"`
	Text      string    `json:"text"` // without the line end
}

// Alert is what is read of an Alertmanager webhook.
type Alert struct {
	Status   string      `json:"status"`
	Receiver string      `json:"receiver"`
	Alerts   []AlertItem `json:"alerts"`
}

// AlertItem is one alert of an Alert.
type AlertItem struct {
	Status string            `json:"status"` // firing or resolved
	Labels map[string]string `json:"labels"` // alertname, function_name
}

// PendingCalls says how many asynchronous calls of a function are stored and
// not done. It is an addition to the API: GET /system/async/pending.
type PendingCalls struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	Pending   uint64 `json:"pending"` // those that wait and those that are being made
}

// DeadLetter is an asynchronous call that was given up. It is an addition to
// the API: GET /system/async/dead-letters.
type DeadLetter struct {
	Seq       uint64    `json:"seq"`              // its name; unique, rising
	CallID    string    `json:"callId,omitempty"` // "" when the call can't be read
	Name      string    `json:"name"`             // of the function
	Namespace string    `json:"namespace"`
	Reason    string    `json:"reason"`
	Attempts  int       `json:"attempts"`
	Status    int       `json:"status,omitempty"` // of the last answer; 0 when none was had
	Time      time.Time `json:"time"`             // when it was given up
	Size      int       `json:"size"`             // of its body, bytes
}

// Call is an invocation that the gateway remembers because it was cold, slow or
// failed. It is an addition to the API: GET /system/calls/{id}.
type Call struct {
	ID        string      `json:"id"`
	Name      string      `json:"name"` // of the function
	Namespace string      `json:"namespace"`
	Method    string      `json:"method"`
	Time      time.Time   `json:"time"`             // when it came
	Kept      []string    `json:"kept"`             // why it is remembered: CallCold, CallThawed, CallSlow, CallFailed
	Status    int         `json:"status"`           // of the answer; 499: the client left
	Reason    string      `json:"reason,omitempty"` // of the gateway's own error, one word
	Text      string      `json:"text,omitempty"`   // of that error
	Replica   string      `json:"replica,omitempty"`
	Address   string      `json:"address,omitempty"` // of the replica
	Ahead     int         `json:"ahead"`             // calls that waited already when it began to
	Retries   int         `json:"retries,omitempty"` // replicas that took no connection
	Stages    []CallStage `json:"stages"`            // in the order in which they came
	Seconds   float64     `json:"seconds"`           // until all of the answer was sent
}

// CallStage is a point that a call came past.
type CallStage struct {
	Name string  `json:"name"` // one of the Stage…
	At   float64 `json:"at"`   // seconds after the call came
}

// Why a call is remembered.
const (
	CallCold   = "cold"
	CallThawed = "thawed" // its replica was frozen
	CallSlow   = "slow"
	CallFailed = "failed"
)

// The stages of a call; one that is not reached or not known is left out.
const (
	StageQueued    = "queued"     // no replica had a free place: it waits
	StageCreated   = "created"    // the control plane has made a replica for it
	StagePlaced    = "placed"     // the replica has a node
	StageReady     = "ready"      // the replica takes calls
	StageGranted   = "granted"    // the call has a place on a replica
	StageThawed    = "thawed"     // the replica was frozen and runs again
	StageConnected = "connected"  // there is a new connection to it
	StageFirstByte = "first_byte" // its answer begins
)
