package main

import (
	"context"
	"fmt"
	"net"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/net/dns/dnsmessage"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/clientcmd"
)

// zone is the cluster's domain; names outside it do not exist here, because nothing leaves the node.
const zone = ".svc.cluster.local."

// maxAnswers keeps a reply below the 512 bytes that every resolver takes over UDP.
const maxAnswers = 12

// serviceNames answers for Services and their endpoints, as the Kubernetes DNS specification 1.1.0 says
// (A and SRV records; pods' own names and reverse names are left out).
type serviceNames struct {
	services corelisters.ServiceLister
	slices   discoverylisters.EndpointSliceLister
}

func newDNSCommand() *cobra.Command {
	var kubeconfig, listen string
	command := &cobra.Command{
		Use:          "cluster-dns",
		Short:        "Answers for the names of Services, over UDP",
		SilenceUsage: true,
		RunE: func(*cobra.Command, []string) error {
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return fmt.Errorf("read the kubeconfig: %w", err)
			}
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				return fmt.Errorf("make a client: %w", err)
			}
			factory := informers.NewSharedInformerFactory(client, 0)
			names := serviceNames{
				services: factory.Core().V1().Services().Lister(),
				slices:   factory.Discovery().V1().EndpointSlices().Lister(),
			}
			factory.Start(ctx.Done())
			factory.WaitForCacheSync(ctx.Done())
			return serve(ctx, listen, names)
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the API")
	command.Flags().StringVar(&listen, "listen", "127.0.0.1:53", "address and port")
	return command
}

func serve(ctx context.Context, listen string, names serviceNames) error {
	socket, err := net.ListenPacket("udp", listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	go func() { <-ctx.Done(); socket.Close() }()
	query := make([]byte, 4096)
	for {
		size, client, err := socket.ReadFrom(query)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("read a query: %w", err)
		}
		var message dnsmessage.Message
		if message.Unpack(query[:size]) != nil || len(message.Questions) != 1 {
			continue
		}
		reply := names.answer(message.Header, message.Questions[0])
		if packed, err := reply.Pack(); err == nil {
			_, _ = socket.WriteTo(packed, client)
		}
	}
}

func (names serviceNames) answer(header dnsmessage.Header, question dnsmessage.Question) dnsmessage.Message {
	reply := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: header.ID, Response: true, Authoritative: true, RecursionDesired: header.RecursionDesired,
		},
		Questions: []dnsmessage.Question{question},
	}
	bodies, exists := names.lookup(strings.ToLower(question.Name.String()), question.Type)
	if !exists {
		reply.RCode = dnsmessage.RCodeNameError
	}
	for _, body := range bodies[:min(len(bodies), maxAnswers)] {
		reply.Answers = append(reply.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET, TTL: 1},
			Body:   body,
		})
	}
	return reply
}

// lookup finds `[host.]service.namespace.svc.cluster.local.` and, for SRV, `_port._protocol.service...`.
// A name that exists without a record of the type asked for gives no bodies and true.
func (names serviceNames) lookup(name string, kind dnsmessage.Type) ([]dnsmessage.ResourceBody, bool) {
	relative, inZone := strings.CutSuffix(name, zone)
	if !inZone {
		return nil, false
	}
	parts := strings.Split(relative, ".")
	if len(parts) < 2 || len(parts) > 4 {
		return nil, false
	}
	service, err := names.services.Services(parts[len(parts)-1]).Get(parts[len(parts)-2])
	if err != nil {
		return nil, false
	}
	switch prefix := parts[:len(parts)-2]; {
	case len(prefix) == 2:
		return serviceRecords(service, name, prefix[0], prefix[1], kind)
	case len(prefix) == 1:
		addresses := names.endpointAddresses(service, prefix[0])
		return addressRecords(addresses, kind), len(addresses) > 0
	case service.Spec.ClusterIP == corev1.ClusterIPNone:
		addresses := names.endpointAddresses(service, "")
		return addressRecords(addresses, kind), len(addresses) > 0
	default:
		return addressRecords([]string{service.Spec.ClusterIP}, kind), true
	}
}

// endpointAddresses are those of the ready endpoints, or of the one with this hostname.
func (names serviceNames) endpointAddresses(service *corev1.Service, hostname string) []string {
	selector := labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service.Name})
	slices, err := names.slices.EndpointSlices(service.Namespace).List(selector)
	if err != nil {
		return nil
	}
	var addresses []string
	for _, slice := range slices {
		for _, endpoint := range slice.Endpoints {
			ready := endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready
			named := hostname == "" || (endpoint.Hostname != nil && *endpoint.Hostname == hostname)
			if named && (ready || service.Spec.PublishNotReadyAddresses) {
				addresses = append(addresses, endpoint.Addresses...)
			}
		}
	}
	return addresses
}

func addressRecords(addresses []string, kind dnsmessage.Type) []dnsmessage.ResourceBody {
	if kind != dnsmessage.TypeA && kind != dnsmessage.TypeALL {
		return nil
	}
	var bodies []dnsmessage.ResourceBody
	for _, address := range addresses {
		if ip := net.ParseIP(address).To4(); ip != nil {
			bodies = append(bodies, &dnsmessage.AResource{A: [4]byte(ip)})
		}
	}
	return bodies
}

func serviceRecords(
	service *corev1.Service, name, port, protocol string, kind dnsmessage.Type,
) ([]dnsmessage.ResourceBody, bool) {
	for _, candidate := range service.Spec.Ports {
		if port != "_"+candidate.Name || protocol != "_"+strings.ToLower(string(candidate.Protocol)) {
			continue
		}
		target, err := dnsmessage.NewName(strings.TrimPrefix(name, port+"."+protocol+"."))
		if err != nil || (kind != dnsmessage.TypeSRV && kind != dnsmessage.TypeALL) {
			return nil, true
		}
		return []dnsmessage.ResourceBody{&dnsmessage.SRVResource{Weight: 1, Port: uint16(candidate.Port), Target: target}}, true
	}
	return nil, false
}
