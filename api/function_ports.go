package api

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// MachinePort is a port of a machine itself.
type MachinePort struct {
	Protocol corev1.Protocol // TCP, UDP or SCTP
	Port     uint16
}

// FunctionPorts are the ports of a node that its AnnotationFunctionPorts opens to
// functions: PORT or PORT/PROTOCOL, separated by commas; in order, each once.
func FunctionPorts(n *corev1.Node) ([]MachinePort, error) {
	list := n.Annotations[AnnotationFunctionPorts]
	if list == "" {
		return nil, nil
	}
	var out []MachinePort
	for text := range strings.SplitSeq(list, ",") {
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		number, protocol, ok := strings.Cut(text, "/")
		p := MachinePort{Protocol: corev1.Protocol(strings.ToUpper(protocol))}
		if !ok {
			p.Protocol = corev1.ProtocolTCP
		}
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("%q: a port is a number from 1 to 65535", text)
		}
		p.Port = uint16(n)
		switch p.Protocol {
		case corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP:
		default:
			return nil, fmt.Errorf("%q: a protocol is tcp, udp or sctp", text)
		}
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b MachinePort) int {
		if a.Port != b.Port {
			return int(a.Port) - int(b.Port)
		}
		return strings.Compare(string(a.Protocol), string(b.Protocol))
	})
	return out, nil
}
