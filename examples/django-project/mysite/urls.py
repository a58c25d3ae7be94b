"""The URLs of the project."""

from django.urls import path

from newsletters import views

urlpatterns = [path("newsletters/", views.newsletters)]
